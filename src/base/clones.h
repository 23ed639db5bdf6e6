// RETORT_CLONES in front of a function: it is compiled for several instruction sets, and the machine's is chosen when the program is loaded.
// For loops that compilers vectorise as they are written; kernels that say their vectors themselves are in src/kernels/.
//
// Layer: base. Sanitizers' builds and clang have the plain function: clones are resolved before a sanitizer's own memory is there.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(RETORT_SANITIZED)
// Without traps to keep in order, comparisons become vectors as well.
#define RETORT_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"), optimize("O3", "no-trapping-math")))
#else
#define RETORT_CLONES
#endif
