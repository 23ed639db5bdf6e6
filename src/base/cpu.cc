#include "base/cpu.h"

#include <atomic>
#include <cstdlib>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace retort {
namespace {

constexpr Isa kAll[] = {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kNeon, Isa::kNeonDot};

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
    case Isa::kNeon: return "neon";
    case Isa::kNeonDot: return "neon_dot";
  }
  return "?";
}

bool isa_available(Isa isa) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  if (isa == Isa::kAvx2) return avx2;
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
  const auto have = available_isas();
  if (!forced || !*forced) return have.back();
  std::string names;
  for (Isa isa : have) {
    if (std::string_view(forced) == isa_name(isa)) return isa;
    names += cat(names.empty() ? "" : ", ", isa_name(isa));
  }
  return invalid("RETORT_ISA=", forced, ": not an instruction set of this machine, which has ", names);
}

Isa active_isa() { return active().load(std::memory_order_relaxed); }
void set_active_isa(Isa isa) { active().store(isa); }

}  // namespace retort
