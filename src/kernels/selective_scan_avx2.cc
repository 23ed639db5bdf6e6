#include "kernels/selective_scan.h"

#if defined(__AVX2__)
#include "kernels/selective_scan_impl.h"
#include "kernels/simd_avx2.h"

namespace retort {
namespace {

constexpr auto kScan = scan_kernels<PlainMode<Avx2, float, 16, 1>>();

}  // namespace

const ScanKernels<float>& selective_scan_avx2() { return kScan; }

}  // namespace retort
#else
namespace retort {
const ScanKernels<float>& selective_scan_avx2() { return selective_scan_scalar(); }
}  // namespace retort
#endif
