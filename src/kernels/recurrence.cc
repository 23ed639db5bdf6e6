#include "kernels/recurrence.h"

#include "base/cpu.h"
#include "kernels/recurrence_isa.h"

namespace retort {
namespace {

// Where the gradient survives rounded products. A normaliser's is a difference, which a decay, or a sum of either sign, leaves little of.
// A decay's own is a difference too, of what reads and what writes, but stays within a hundredth.
bool rounds_well(const KernelRecurrence& spec) {
  if (spec.normaliser == KernelNormaliser::kSum) return spec.decay == KernelDecay::kNone;
  return spec.normaliser == KernelNormaliser::kNone;
}

const RecurrenceKernels<float>& recurrence(const KernelRecurrence& spec, Arithmetic arithmetic) {
  switch (active_isa()) {
    case Isa::kScalar: break;
    case Isa::kAvx2: return recurrence_avx2();
    case Isa::kNeon:
    case Isa::kNeonDot: return recurrence_neon();
    case Isa::kAmx:
      return arithmetic == Arithmetic::kFast && rounds_well(spec) ? recurrence_amx_bf16() : recurrence_avx512();
    case Isa::kAvx512:
      return arithmetic == Arithmetic::kFast && rounds_well(spec) ? recurrence_avx512_bf16() : recurrence_avx512();
  }
  return recurrence_scalar();
}

const WindowKernels<float>& window_attention(Arithmetic arithmetic) {
  switch (active_isa()) {
    case Isa::kScalar: break;
    case Isa::kAvx2: return window_attention_avx2();
    case Isa::kNeon:
    case Isa::kNeonDot: return window_attention_neon();
    case Isa::kAmx:
    case Isa::kAvx512: return arithmetic == Arithmetic::kFast ? window_attention_avx512_bf16() : window_attention_avx512();
  }
  return window_attention_scalar();
}

}  // namespace

void recurrence_step(const KernelRecurrence& spec, int kv_head, int64_t position, const RecurrenceTokens<float>& token,
                     float* state, float* out, float* log_norm) {
  recurrence(spec, Arithmetic::kExact).step(spec, kv_head, position, token, state, out, log_norm);
}

void recurrence_forward(const KernelRecurrence& spec, int kv_head, int64_t tokens, int64_t position,
                        const RecurrenceTokens<float>& in, float* state, float* out, float* log_norm, Arithmetic arithmetic) {
  recurrence(spec, arithmetic).forward(spec, kv_head, tokens, position, in, state, out, log_norm);
}

void recurrence_backward(const KernelRecurrence& spec, int kv_head, int64_t tokens, const RecurrenceTokens<float>& in,
                         const float* out, const float* d_out, const float* d_log_norm,
                         const RecurrenceGradients<float>& gradients, Arithmetic arithmetic) {
  recurrence(spec, arithmetic).backward(spec, kv_head, tokens, in, out, d_out, d_log_norm, gradients);
}

void recurrence_step(const KernelRecurrence& spec, int kv_head, int64_t position, const RecurrenceTokens<double>& token,
                     double* state, double* out, double* log_norm) {
  recurrence_double().step(spec, kv_head, position, token, state, out, log_norm);
}

void recurrence_forward(const KernelRecurrence& spec, int kv_head, int64_t tokens, int64_t position,
                        const RecurrenceTokens<double>& in, double* state, double* out, double* log_norm) {
  recurrence_double().forward(spec, kv_head, tokens, position, in, state, out, log_norm);
}

void recurrence_backward(const KernelRecurrence& spec, int kv_head, int64_t tokens, const RecurrenceTokens<double>& in,
                         const double* out, const double* d_out, const double* d_log_norm,
                         const RecurrenceGradients<double>& gradients) {
  recurrence_double().backward(spec, kv_head, tokens, in, out, d_out, d_log_norm, gradients);
}

void window_attention_forward(const KernelAttention& spec, int kv_head, int64_t tokens, const float* q, const float* k,
                              const float* v, float* out, float* log_norm, Arithmetic arithmetic) {
  window_attention(arithmetic).forward(spec, kv_head, tokens, q, k, v, out, log_norm);
}

void window_attention_backward(const KernelAttention& spec, int kv_head, int64_t tokens, const float* q, const float* k,
                               const float* v, const float* out, const float* log_norm, const float* d_out,
                               const float* d_log_norm, float* dq, float* dk, float* dv, Arithmetic arithmetic) {
  window_attention(arithmetic).backward(spec, kv_head, tokens, q, k, v, out, log_norm, d_out, d_log_norm, dq, dk, dv);
}

void window_attention_forward(const KernelAttention& spec, int kv_head, int64_t tokens, const double* q, const double* k,
                              const double* v, double* out, double* log_norm) {
  window_attention_double().forward(spec, kv_head, tokens, q, k, v, out, log_norm);
}

void window_attention_backward(const KernelAttention& spec, int kv_head, int64_t tokens, const double* q, const double* k,
                               const double* v, const double* out, const double* log_norm, const double* d_out,
                               const double* d_log_norm, double* dq, double* dk, double* dv) {
  window_attention_double().backward(spec, kv_head, tokens, q, k, v, out, log_norm, d_out, d_log_norm, dq, dk, dv);
}

}  // namespace retort
