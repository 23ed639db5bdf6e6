#include "kernels/rank_one.h"

#include "base/cpu.h"
#include "kernels/rank_one_isa.h"

namespace retort {
namespace {

const RankOneKernels<float>& rank_one(Arithmetic arithmetic) {
  switch (active_isa()) {
    case Isa::kScalar: break;
    case Isa::kAvx2: return rank_one_avx2();
    case Isa::kNeon:
    case Isa::kNeonDot: return rank_one_neon();
    case Isa::kAmx: return arithmetic == Arithmetic::kFast ? rank_one_amx_bf16() : rank_one_avx512();
    case Isa::kAvx512: return arithmetic == Arithmetic::kFast ? rank_one_avx512_bf16() : rank_one_avx512();
  }
  return rank_one_scalar();
}

}  // namespace

void rank_one_step(const KernelRankOne& spec, int kv_head, int64_t position, const RankOneTokens<float>& token, float* state, float* out) {
  rank_one(Arithmetic::kExact).step(spec, kv_head, position, token, state, out);
}

void rank_one_forward(const KernelRankOne& spec, int kv_head, int64_t tokens, int64_t position, const RankOneTokens<float>& in,
                      float* state, float* out, Arithmetic arithmetic) {
  rank_one(arithmetic).forward(spec, kv_head, tokens, position, in, state, out);
}

void rank_one_backward(const KernelRankOne& spec, int kv_head, int64_t tokens, const RankOneTokens<float>& in, const float* d_out,
                       const RankOneGradients<float>& gradients, Arithmetic arithmetic) {
  rank_one(arithmetic).backward(spec, kv_head, tokens, in, d_out, gradients);
}

void rank_one_step(const KernelRankOne& spec, int kv_head, int64_t position, const RankOneTokens<double>& token, double* state, double* out) {
  rank_one_double().step(spec, kv_head, position, token, state, out);
}

void rank_one_forward(const KernelRankOne& spec, int kv_head, int64_t tokens, int64_t position, const RankOneTokens<double>& in,
                      double* state, double* out) {
  rank_one_double().forward(spec, kv_head, tokens, position, in, state, out);
}

void rank_one_backward(const KernelRankOne& spec, int kv_head, int64_t tokens, const RankOneTokens<double>& in, const double* d_out,
                       const RankOneGradients<double>& gradients) {
  rank_one_double().backward(spec, kv_head, tokens, in, d_out, gradients);
}

}  // namespace retort
