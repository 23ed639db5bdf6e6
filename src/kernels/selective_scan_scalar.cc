#include "kernels/selective_scan_impl.h"
#include "kernels/simd_scalar.h"

namespace retort {
namespace {

constexpr auto kScan = scan_kernels<PlainMode<Scalar, float, 16, 1>>();
constexpr auto kScanDouble = scan_kernels<PlainMode<ScalarDouble, double, 8, 1>>();

}  // namespace

const ScanKernels<float>& selective_scan_scalar() { return kScan; }
const ScanKernels<double>& selective_scan_double() { return kScanDouble; }

}  // namespace retort
