#include "kernels/selective_scan.h"

#if defined(__AVX512BF16__)
#include "kernels/selective_scan_impl.h"
#include "kernels/simd_avx512.h"

namespace retort {
namespace {

constexpr auto kScan = scan_kernels<PlainMode<Avx512, float, 16, 1>>();

}  // namespace

const ScanKernels<float>& selective_scan_avx512() { return kScan; }

}  // namespace retort
#else
namespace retort {
const ScanKernels<float>& selective_scan_avx512() { return selective_scan_scalar(); }
}  // namespace retort
#endif
