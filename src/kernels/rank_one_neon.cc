#include "kernels/rank_one_isa.h"

#if defined(__ARM_NEON)
#include "kernels/rank_one_backward_impl.h"
#include "kernels/simd_neon.h"

namespace retort {
namespace {

using F32 = PlainMode<Neon, float, 16, 1>;
constexpr auto kRankOne = rank_one_kernels<F32>();

}  // namespace

const RankOneKernels<float>& rank_one_neon() { return kRankOne; }

}  // namespace retort
#else
namespace retort {
const RankOneKernels<float>& rank_one_neon() { return rank_one_scalar(); }
}  // namespace retort
#endif
