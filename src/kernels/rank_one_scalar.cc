#include "kernels/rank_one_backward_impl.h"
#include "kernels/simd_scalar.h"

namespace retort {
namespace {

using F32 = PlainMode<Scalar, float, 16, 1>;
using F64 = PlainMode<ScalarDouble, double, 8, 1>;
constexpr auto kRankOne = rank_one_kernels<F32>();
constexpr auto kRankOneDouble = rank_one_kernels<F64>();

}  // namespace

const RankOneKernels<float>& rank_one_scalar() { return kRankOne; }
const RankOneKernels<double>& rank_one_double() { return kRankOneDouble; }

}  // namespace retort
