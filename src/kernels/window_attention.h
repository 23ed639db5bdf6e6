// Softmax attention of one whole sequence, forward and backward: over a sliding window and the first few tokens (sinks), or
// over everything before.
//
//   z_ts = q_t . k_s / sqrt(d);   out_t = sum_s e^z_ts v_s / sum_s e^z_ts,   log_norm_t = log sum_s e^z_ts
//   s runs over t - window < s <= t and s < sinks (window 0: over all s <= t)
//
// Layer: kernels. Thread-safe: every call touches one kv head (and the query heads that read it) of one sequence.
// Work is banded: a block of 64 queries meets only the keys that one of them sees.
#pragma once

#include "kernels/recurrence.h"

namespace retort {

struct KernelAttention {
  int heads = 0;      // H
  int kv_heads = 0;   // G
  int key_dim = 0;    // d
  int value_dim = 0;  // V
  int64_t window = 0; // the current token included; 0: no window
  int64_t sinks = 0;
  int group() const { return heads / kv_heads; }
};

// q [T, H*d], k [T, G*d] (both rotated), v [T, G*V] -> out [T, H*V], log_norm [T, H] (may be null).
void window_attention_forward(const KernelAttention& spec, int kv_head, int64_t tokens, const float* q, const float* k,
                              const float* v, float* out, float* log_norm, Arithmetic arithmetic = Arithmetic::kExact);
// out and log_norm are forward's; d_log_norm may be null. Writes every element of its heads' columns of dq, dk, dv.
void window_attention_backward(const KernelAttention& spec, int kv_head, int64_t tokens, const float* q, const float* k,
                               const float* v, const float* out, const float* log_norm, const float* d_out,
                               const float* d_log_norm, float* dq, float* dk, float* dv,
                               Arithmetic arithmetic = Arithmetic::kExact);

// The same text on doubles with plain loops: for tests.
void window_attention_forward(const KernelAttention& spec, int kv_head, int64_t tokens, const double* q, const double* k,
                              const double* v, double* out, double* log_norm);
void window_attention_backward(const KernelAttention& spec, int kv_head, int64_t tokens, const double* q, const double* k,
                               const double* v, const double* out, const double* log_norm, const double* d_out,
                               const double* d_log_norm, double* dq, double* dk, double* dv);

}  // namespace retort
