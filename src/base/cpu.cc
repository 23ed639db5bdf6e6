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
    const auto chosen = isa_from_environment();
    if (chosen.ok() && enable_isa(*chosen)) return *chosen;
    auto have = available_isas();
    while (!enable_isa(have.back())) have.pop_back();  // the first, plain loops, needs nothing
    return have.back();
  }()};
  return isa;
}

#if defined(__x86_64__)
// clang's __builtin_cpu_supports does not know f16c.
bool has_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

// The matrix unit's registers are 8 kB that a switch of threads must save: the kernel wants to be asked. In Linux 5.16 and later, asm/prctl.h.
#if defined(__linux__)
constexpr int kTileData = 18, kSupported = 0x1021 /* ARCH_GET_XCOMP_SUPP */, kRequestPermission = 0x1023 /* ARCH_REQ_XCOMP_PERM */;

bool has_matrix_unit() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  constexpr unsigned kWanted = 1u << 22 | 1u << 24 | 1u << 25;  // leaf 7, edx: bf16, tiles, bytes
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & kWanted) != kWanted) return false;
  uint64_t supported = 0;
  return syscall(SYS_arch_prctl, kSupported, &supported) == 0 && (supported >> kTileData & 1) != 0;
}
bool request_matrix_unit() { return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0; }
#else
bool has_matrix_unit() { return false; }
bool request_matrix_unit() { return false; }
#endif
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
  if (isa == Isa::kAmx) return has_matrix_unit() && isa_available(Isa::kAvx512);
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

bool enable_isa(Isa isa) {
  if (!isa_available(isa)) return false;
#if defined(__x86_64__)
  if (isa == Isa::kAmx) {
    static const bool permitted = request_matrix_unit();
    return permitted;
  }
#endif
  return true;
}

std::vector<Isa> available_isas() {
  std::vector<Isa> have;
  for (Isa isa : kAll)
    if (isa_available(isa)) have.push_back(isa);
  return have;
}

Result<Isa> isa_from_environment() { return chosen_isa(std::getenv("RETORT_ISA"), available_isas(), enable_isa); }

Result<Isa> chosen_isa(const char* forced, const std::vector<Isa>& have, bool (*enable)(Isa)) {
  if (!forced || !*forced) return have.back();
  std::string names;
  for (Isa isa : have) {
    if (std::string_view(forced) == isa_name(isa)) {
      if (enable(isa)) return isa;
      return invalid("RETORT_ISA=", forced, ": the system does not let this process use it; without RETORT_ISA the best that it may use is taken");
    }
    names += cat(names.empty() ? "" : ", ", isa_name(isa));
  }
  return invalid("RETORT_ISA=", forced, ": not an instruction set of this machine, which has ", names);
}

Isa active_isa() { return active().load(std::memory_order_relaxed); }
void set_active_isa(Isa isa) {
  RETORT_CHECK(enable_isa(isa), cat(isa_name(isa), " cannot be used here"));
  active().store(isa);
}

}  // namespace retort
