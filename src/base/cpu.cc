#include "base/cpu.h"

#include <atomic>
#include <cstdlib>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace retort {
namespace {

constexpr Isa kAll[] = {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAmx, Isa::kNeon, Isa::kNeonDot};

std::atomic<Isa>& active() {
  static std::atomic<Isa> isa{[] {
    auto chosen = isa_from_environment();
    return chosen.ok() ? *chosen : available_isas().back();
  }()};
  return isa;
}

#if defined(__x86_64__)
// clang's __builtin_cpu_supports does not know f16c.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

// The processor's word, and the kernel's permission to this process: the unit's registers are 8 kB that a switch of threads must save.
bool may_use_matrix_unit() {
#if defined(__linux__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kWanted = 1u << 22 | 1u << 24 | 1u << 25;  // leaf 7, edx: bf16, tiles, bytes
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & kWanted) != kWanted) return false;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // asm/prctl.h: ARCH_REQ_XCOMP_PERM, in Linux 5.16 and later
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}
#elif defined(__aarch64__)
bool has_dot_products() {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#else
  return true;  // Apple's all have them
#endif
}
#endif

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kScalar: return "scalar";
    case Isa::kAvx2: return "avx2";
    case Isa::kAvx512: return "avx512";
    case Isa::kAmx: return "amx";
    case Isa::kNeon: return "neon";
    case Isa::kNeonDot: return "neon_dot";
  }
  return "?";
}

bool isa_available(Isa isa) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  if (isa == Isa::kAvx2) return avx2;
  if (isa == Isa::kAmx) {
    static const bool permitted = may_use_matrix_unit();
    return permitted && isa_available(Isa::kAvx512);
  }
  if (isa == Isa::kAvx512)
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
#elif defined(__aarch64__)
  if (isa == Isa::kNeon) return true;
  if (isa == Isa::kNeonDot) return has_dot_products();
#endif
  return isa == Isa::kScalar;
}

std::vector<Isa> available_isas() {
  std::vector<Isa> have;
  for (Isa isa : kAll)
    if (isa_available(isa)) have.push_back(isa);
  return have;
}

Result<Isa> isa_from_environment() {
  const char* forced = std::getenv("RETORT_ISA");
  // Asked for first and alone: whether there is a matrix unit is not asked without need, since permission to use it stays with the process.
  for (Isa isa : kAll)
    if (forced && std::string_view(forced) == isa_name(isa) && isa_available(isa)) return isa;
  const auto have = available_isas();
  if (!forced || !*forced) return have.back();
  std::string names;
  for (Isa isa : have) names += cat(names.empty() ? "" : ", ", isa_name(isa));
  return invalid("RETORT_ISA=", forced, ": not an instruction set of this machine, which has ", names);
}

Isa active_isa() { return active().load(std::memory_order_relaxed); }
void set_active_isa(Isa isa) { active().store(isa); }

}  // namespace retort
