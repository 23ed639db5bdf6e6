#include "kernels/rank_one_isa.h"

#if defined(__AVX2__)
#include "kernels/rank_one_backward_impl.h"
#include "kernels/simd_avx2.h"

namespace retort {
namespace {

using F32 = PlainMode<Avx2, float, 16, 1>;
constexpr auto kRankOne = rank_one_kernels<F32>();

}  // namespace

const RankOneKernels<float>& rank_one_avx2() { return kRankOne; }

}  // namespace retort
#else
namespace retort {
const RankOneKernels<float>& rank_one_avx2() { return rank_one_scalar(); }
}  // namespace retort
#endif
