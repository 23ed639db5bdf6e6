#include "kernels/rank_one_isa.h"

#if defined(__AVX512BF16__)
#include "kernels/rank_one_backward_impl.h"
#include "kernels/small_gemm_avx512.h"

namespace retort {
namespace {

using F32 = PlainMode<Avx512, float, 16, 4>;
constexpr auto kRankOne = rank_one_kernels<F32>();
constexpr auto kRankOneBf16 = rank_one_kernels<F32, Bf16Mode>();

}  // namespace

const RankOneKernels<float>& rank_one_avx512() { return kRankOne; }
const RankOneKernels<float>& rank_one_avx512_bf16() { return kRankOneBf16; }

}  // namespace retort
#else
namespace retort {
const RankOneKernels<float>& rank_one_avx512() { return rank_one_scalar(); }
const RankOneKernels<float>& rank_one_avx512_bf16() { return rank_one_scalar(); }
}  // namespace retort
#endif
