# Compiler cache, linker, warnings and sanitizers: everything about the tools, nothing about the code.
find_program(RETORT_CCACHE ccache)
if(RETORT_CCACHE)
  # Checkouts in other folders share the cache, and so do units that start from a precompiled header.
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CMAKE_COMMAND} -E env CCACHE_BASEDIR=${CMAKE_SOURCE_DIR} CCACHE_NOHASHDIR=1
    CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_ctime,include_file_mtime ${RETORT_CCACHE})
  set(CMAKE_C_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    add_compile_options(-fpch-preprocess)  # without it a cache cannot see which header was precompiled
  endif()
endif()
find_program(RETORT_MOLD mold)
if(RETORT_MOLD)
  add_link_options(-fuse-ld=mold)
endif()
add_compile_options(-Wall -Wextra -Wno-missing-field-initializers -Wno-unknown-pragmas -fno-math-errno)
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  add_compile_options(-Wno-restrict)  # false alarms on std::string in GCC 12 (its bug 105651)
endif()
if(RETORT_SANITIZE)
  add_compile_options(-fsanitize=${RETORT_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all -g1)
  add_link_options(-fsanitize=${RETORT_SANITIZE})
  add_compile_definitions(RETORT_SANITIZED)  # compilers have different names for it
  if(RETORT_SANITIZE MATCHES address AND CMAKE_CXX_COMPILER_ID MATCHES Clang)
    # A call for each access instead of its code, and not twice what the address sanitizer sees: unrolled kernels compile in a tenth of the time.
    add_compile_options("SHELL:-mllvm -asan-instrumentation-with-call-threshold=0" -fno-sanitize=null,object-size,pointer-overflow)
  endif()
endif()
find_package(Threads REQUIRED)
