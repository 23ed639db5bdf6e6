#include "kernels/rank_one_isa.h"

#if defined(__AMX_BF16__) || defined(__AMXBF16__)  // gcc, clang
#include "kernels/small_gemm_amx.h"

#include "kernels/rank_one_backward_impl.h"

namespace retort {
namespace {

using F32 = PlainMode<Avx512, float, 16, 4>;

constexpr auto kKernels = rank_one_kernels<F32, AmxMode>();

void forward(const KernelRankOne& spec, int kv_head, int64_t tokens, int64_t position, const RankOneTokens<float>& in, float* state, float* out) {
  MatrixUnit unit;
  kKernels.forward(spec, kv_head, tokens, position, in, state, out);
}
void backward(const KernelRankOne& spec, int kv_head, int64_t tokens, const RankOneTokens<float>& in, const float* d_out,
              const RankOneGradients<float>& grad) {
  MatrixUnit unit;
  kKernels.backward(spec, kv_head, tokens, in, d_out, grad);
}

constexpr RankOneKernels<float> kRankOneBf16 = {kKernels.step, &forward, &backward};

}  // namespace

const RankOneKernels<float>& rank_one_amx_bf16() { return kRankOneBf16; }

}  // namespace retort
#else
namespace retort {
const RankOneKernels<float>& rank_one_amx_bf16() { return rank_one_scalar(); }
}  // namespace retort
#endif
