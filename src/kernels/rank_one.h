// Recurrences whose tokens also change the state by a rank-one matrix (mixers.md 3.8, 3.13, 3.14), on raw memory: one token at
// a time, a sequence in chunks, and backwards.
//
//   delta:     S_t = D_t S_{t-1} + k_t (v_t + S_{t-1}^T a_t)^T             D_t = Diag(exp(l_t))
//   rank one:  S_t = D_t S_{t-1} + b_t (S_{t-1}^T a_t)^T + k_t v_t^T
//   y_t = S_t^T q_t
//
// Layer: kernels. Thread-safe: every call touches one kv head (and the query heads that read it) of one sequence.
//
// Exact for any decay, also exp(-20) per token: all exponents are differences within a chunk and at most 0. Of kFast, what corrects
// itself (the erasing rows' scores, what they find, the solves, the state) is as in kExact: it would not survive rounded factors;
// outputs and gradients are made of rounded ones. Work of forward and backward is in small matrix products, and memory is linear in
// the number of tokens. Growth of the state is the caller's: delta with a = -k' and k = beta k', |k'| <= 1 and
// beta <= 2, never grows.
#pragma once

#include "kernels/recurrence.h"

namespace retort {

struct KernelRankOne {
  KernelDecay decay = KernelDecay::kNone;
  bool delta = false;
  int heads = 0;      // H
  int kv_heads = 0;   // G
  int key_dim = 0;    // K
  int value_dim = 0;  // V
  int64_t first_position = 0;  // tokens before it neither write, decay nor erase; their output is 0

  int group() const { return heads / kv_heads; }
  // Numbers in the state of one kv head: S [K, V] row-major.
  int64_t state_size() const { return int64_t(key_dim) * value_dim; }
};

// Rows of one sequence, contiguous; all kv heads. log_decay is null for KernelDecay::kNone, erase_key for delta.
template <class T>
struct RankOneTokens {
  const T* q = nullptr;          // [T, H*K]
  const T* k = nullptr;          // [T, G*K]
  const T* v = nullptr;          // [T, G*V]
  const T* log_decay = nullptr;  // [T, G] or [T, G*K], <= 0
  const T* erase = nullptr;      // a [T, G*K]
  const T* erase_key = nullptr;  // b [T, G*K]
};

template <class T>
struct RankOneGradients {
  T* q = nullptr;
  T* k = nullptr;
  T* v = nullptr;
  T* log_decay = nullptr;
  T* erase = nullptr;
  T* erase_key = nullptr;
};

// Pointers, `state`, `position` and a step without q as in recurrence.h.
void rank_one_step(const KernelRankOne& spec, int kv_head, int64_t position, const RankOneTokens<float>& token, float* state, float* out);
void rank_one_forward(const KernelRankOne& spec, int kv_head, int64_t tokens, int64_t position, const RankOneTokens<float>& in,
                      float* state, float* out, Arithmetic arithmetic = Arithmetic::kExact);
// Gradients of a whole sequence that started from an empty state at position 0. Writes every element of its heads' columns.
void rank_one_backward(const KernelRankOne& spec, int kv_head, int64_t tokens, const RankOneTokens<float>& in, const float* d_out,
                       const RankOneGradients<float>& gradients, Arithmetic arithmetic = Arithmetic::kExact);

// The same text on doubles with plain loops: for tests.
void rank_one_step(const KernelRankOne& spec, int kv_head, int64_t position, const RankOneTokens<double>& token, double* state, double* out);
void rank_one_forward(const KernelRankOne& spec, int kv_head, int64_t tokens, int64_t position, const RankOneTokens<double>& in,
                      double* state, double* out);
void rank_one_backward(const KernelRankOne& spec, int kv_head, int64_t tokens, const RankOneTokens<double>& in, const double* d_out,
                       const RankOneGradients<double>& gradients);

}  // namespace retort
