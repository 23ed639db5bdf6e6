// Which instruction set the kernels use: chosen once at run time, forced by RETORT_ISA=scalar|avx2|avx512|amx|neon|neon_dot.
//
// Layer: base. Thread-safe, except set_active_isa (tests and start-up only).
#pragma once

#include <vector>

#include "base/error.h"

namespace retort {

// kAvx512: F, BW, VL, DQ, VNNI and BF16. kAmx: that, and the matrix unit's products of bytes and of bf16. kNeon: every 64-bit Arm; kNeonDot: with dot products of bytes (Arm 8.2, Apple).
enum class Isa { kScalar, kAvx2, kAvx512, kAmx, kNeon, kNeonDot };

const char* isa_name(Isa isa);
// Whether processor and system know it. Asking changes nothing.
bool isa_available(Isa isa);
std::vector<Isa> available_isas();  // worst first

// Gets from the system what the instruction set needs besides: the matrix unit of kAmx wants a permission, which stays with the process. False where
// it is refused, or the instruction set is not available. Whoever gives a kernel an Isa by hand asks first; what is active has been asked for.
bool enable_isa(Isa isa);

// The best one, or what RETORT_ISA names, which is then enabled; an error lists what this machine has, or says that the system refuses it. Programs
// call it at their start.
Result<Isa> isa_from_environment();
// That rule by itself: `forced` may be null, `have` is worst first.
Result<Isa> chosen_isa(const char* forced, const std::vector<Isa>& have, bool (*enable)(Isa));

// What kernels run: what the environment says, or the best that can be enabled. An unusable RETORT_ISA counts as absent here: the program has
// reported it.
Isa active_isa();
void set_active_isa(Isa isa);

}  // namespace retort
