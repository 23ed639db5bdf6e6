// The one recurrence (mixers.md 3.1) on raw memory: one token at a time, a sequence in chunks, and backwards.
//
//   S_t = exp(l_t) o S_{t-1} + k_t v_t^T;   y_t = S_t^T q_t
//   kSum, kAtLeastOne: z_t = exp(l_t) o z_{t-1} + k_t;   y_t = S_t^T q_t / d_t,   d_t = z_t . q_t + norm_eps or max(|z_t . q_t|, 1)
//   kSum: log_norm_t = log d_t + q_log_offset_t;   where z_t . q_t is 0, y_t is 0 and log_norm_t is kKernelNothingWritten
//
// Layer: kernels. Thread-safe: every call touches one kv head (and the query heads that read it) of one sequence, so callers
// run kv heads and sequences in parallel. A skip (y += skip v) is the caller's.
//
// Exact for any decay, also exp(-20) per token: all exponents are differences within a chunk and at most 0.
// Work of forward and backward is in small matrix products, memory is linear in the number of tokens.
#pragma once

#include <cstdint>

namespace retort {

enum class KernelDecay { kNone, kScalar, kPerKey };
enum class KernelNormaliser { kNone, kSum, kAtLeastOne };

struct KernelRecurrence {
  KernelDecay decay = KernelDecay::kNone;
  int heads = 0;      // H
  int kv_heads = 0;   // G
  int key_dim = 0;    // K
  int value_dim = 0;  // V
  KernelNormaliser normaliser = KernelNormaliser::kNone;
  double norm_eps = 0;         // kSum
  int64_t first_position = 0;  // tokens before it neither write nor decay; their output is 0

  int group() const { return heads / kv_heads; }
  bool normalised() const { return normaliser != KernelNormaliser::kNone; }
  // Numbers in the state of one kv head: S [K, V] row-major, then z [K] when normalised. A sequence's state is G of them.
  int64_t state_size() const { return int64_t(key_dim) * (value_dim + (normalised() ? 1 : 0)); }
};

// log_norm where the sum is empty; out is 0 there.
inline constexpr float kKernelNothingWritten = -1e30f;
// A sum z . q that is not above this counts as empty, whatever norm_eps is: a window that it is joined with has all the weight.
inline constexpr float kKernelLeastNorm = 1e-30f;

// Rows of one sequence, contiguous; all kv heads. q_log_offset may be null, log_decay is null for KernelDecay::kNone.
template <class T>
struct RecurrenceTokens {
  const T* q = nullptr;             // [T, H*K]
  const T* k = nullptr;             // [T, G*K]
  const T* v = nullptr;             // [T, G*V]
  const T* log_decay = nullptr;     // [T, G] or [T, G*K], <= 0
  const T* q_log_offset = nullptr;  // [T, H]
};

template <class T>
struct RecurrenceGradients {
  T* q = nullptr;
  T* k = nullptr;
  T* v = nullptr;
  T* log_decay = nullptr;     // null for KernelDecay::kNone
  T* q_log_offset = nullptr;  // null: not wanted
};

// kFast takes products of bf16-rounded numbers with f32 sums where the machine has an instruction for it, and is kExact
// elsewhere. States, decays, normalisers and sums stay in f32.
enum class Arithmetic { kExact, kFast };

// All pointers are to the sequence's first row (step: to the token's row); the functions find the kv head's columns.
// `state` is the kv head's own block and is updated; null (forward only): start from zero and drop it.
// log_norm [T, H] may be null and is for kSum only. A step without q only moves the state, to the same bits. `position` is the index in the sequence of the first (or only) token.
void recurrence_step(const KernelRecurrence& spec, int kv_head, int64_t position, const RecurrenceTokens<float>& token,
                     float* state, float* out, float* log_norm);
void recurrence_forward(const KernelRecurrence& spec, int kv_head, int64_t tokens, int64_t position,
                        const RecurrenceTokens<float>& in, float* state, float* out, float* log_norm,
                        Arithmetic arithmetic = Arithmetic::kExact);

// Gradients of a whole sequence that started from an empty state at position 0. `out` is what forward wrote (only read when
// normalised); d_log_norm may be null. Writes every element of its heads' columns.
void recurrence_backward(const KernelRecurrence& spec, int kv_head, int64_t tokens, const RecurrenceTokens<float>& in,
                         const float* out, const float* d_out, const float* d_log_norm,
                         const RecurrenceGradients<float>& gradients, Arithmetic arithmetic = Arithmetic::kExact);

// The same text on doubles with plain loops: for tests.
void recurrence_step(const KernelRecurrence& spec, int kv_head, int64_t position, const RecurrenceTokens<double>& token,
                     double* state, double* out, double* log_norm);
void recurrence_forward(const KernelRecurrence& spec, int kv_head, int64_t tokens, int64_t position,
                        const RecurrenceTokens<double>& in, double* state, double* out, double* log_norm);
void recurrence_backward(const KernelRecurrence& spec, int kv_head, int64_t tokens, const RecurrenceTokens<double>& in,
                         const double* out, const double* d_out, const double* d_log_norm,
                         const RecurrenceGradients<double>& gradients);

}  // namespace retort
