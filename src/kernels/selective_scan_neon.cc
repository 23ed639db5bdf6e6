#include "kernels/selective_scan.h"

#if defined(__ARM_NEON)
#include "kernels/selective_scan_impl.h"
#include "kernels/simd_neon.h"

namespace retort {
namespace {

constexpr auto kScan = scan_kernels<PlainMode<Neon, float, 16, 1>>();

}  // namespace

const ScanKernels<float>& selective_scan_neon() { return kScan; }

}  // namespace retort
#else
namespace retort {
const ScanKernels<float>& selective_scan_neon() { return selective_scan_scalar(); }
}  // namespace retort
#endif
