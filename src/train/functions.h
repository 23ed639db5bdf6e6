// Differentiable functions that a mixer's equations are made of, where plain torch would be slow or would not exist.
//
// Layer: train. Thread-safe; a call runs on as many threads as torch may use (tasks.h), and no bit depends on their number.
//
// `Precision`: kFast multiplies in bf16 with f32 accumulation and keeps the wide feature maps in bf16. kExact stays in the type
// of its arguments (f32, f64): for tests, and for hardware without bf16.
#pragma once

#include <ATen/Parallel.h>
#include <torch/torch.h>

#include <utility>
#include <vector>

#include "mixers/mixer.h"

namespace retort::train {

enum class Numeric { kFast, kExact };

// One run of tokens that shares state: rows [begin, begin + size).
struct Sequence {
  int64_t begin = 0;
  int64_t size = 0;
};

// Processor seconds of all threads: in matrix products since the last call; of the whole process.
double take_gemm_seconds();
double processor_seconds();

at::Tensor product(const at::Tensor& a, const at::Tensor& b);          // mm or bmm, timed; bf16 on any processor

// x[T, in] w[out, in] (+ b[out]) -> [T, out], in bf16 instead of f32 when `narrow` and kFast. bf16 weights are frozen ones. `low`: x
// in bf16 if it is at hand, else undefined.
at::Tensor linear(const at::Tensor& x, const at::Tensor& low, const at::Tensor& w, const at::Tensor& b, Numeric numeric,
                  bool narrow = false);

enum class Feature { kNone, kExp, kSoftmax };
// Per head: x[T, n*in], w[n, out, in], b[n, out] or undefined -> {[T, n*out], row maxima [T, n] (kExp only)}. The maximum counts as
// a constant in the backward pass: exact whenever a result does not depend on it, as in a normalised recurrence.
std::pair<at::Tensor, at::Tensor> head_linear(const at::Tensor& x, const at::Tensor& low, const at::Tensor& w, const at::Tensor& b,
                                              Feature feature, Numeric numeric);

// Per head [T, n*f] -> [T, n*f(f+1)/2], square_heads of mixer.h.
at::Tensor square_heads(const at::Tensor& x, int heads, Numeric numeric);

// rms_norm_heads, short_conv and previous / leaving of mixer.h; w and b may be undefined.
at::Tensor rms_norm_heads(const at::Tensor& x, const at::Tensor& w, int heads, double eps, Numeric numeric);
at::Tensor short_conv(const at::Tensor& x, const at::Tensor& w, const at::Tensor& b, const std::vector<Sequence>& sequences, Numeric numeric);
at::Tensor earlier(const at::Tensor& x, int64_t back, const std::vector<Sequence>& sequences);

// Slices of columns whose gradients meet in one buffer; narrow() would make each as large as its source. One object per tensor.
class Slices {
 public:
  explicit Slices(const at::Tensor& source);
  at::Tensor columns(int64_t first, int64_t count) const;
  const at::Tensor& source() const { return source_; }

 private:
  at::Tensor source_, shared_;
  c10::IValue gradient_;
};

// cosine, sine [T, d/2] of every row's position in its sequence.
struct RopeTable {
  at::Tensor cosine, sine;
};
RopeTable rope_table(const std::vector<Sequence>& sequences, const RopeConfig& rope, int head_dim, at::ScalarType type);
at::Tensor rope(const at::Tensor& x, const RopeTable& table, int heads);

// An output [T, H*V] and, where there is one, the logarithm of what it was divided by [T, H].
using OutAndNorm = std::pair<at::Tensor, at::Tensor>;

// Softmax attention with a window and sinks, or fully causal (window.size 0). q[T, H*d], k[T, G*d], v[T, G*V].
OutAndNorm attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, int heads, int kv_heads, const WindowConfig& window,
                     const std::vector<Sequence>& sequences, Numeric numeric);

// What attention() multiplies one sequence's values with, in the type of its arguments: q[n, T, d], k[n or 1, T, d] -> softmax [n, T, T] and the
// logarithms of its sums [n, T].
OutAndNorm attention_matrix(const at::Tensor& q, const at::Tensor& k, const WindowConfig& window);

// The recurrence of mixer.h without its skip. q[T, H*K], k[T, G*K], v[T, G*V], log_decay and offset (a constant) may be undefined.
OutAndNorm recurrence(const RecurrenceSpec& spec, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                      const at::Tensor& log_decay, const at::Tensor& offset, const std::vector<Sequence>& sequences, Numeric numeric);
// The same for Transition::kDelta and kRankOne; erase_key is undefined for kDelta. [T, H*V]
at::Tensor rank_one(const RecurrenceSpec& spec, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& log_decay,
                    const at::Tensor& erase, const at::Tensor& erase_key, const std::vector<Sequence>& sequences, Numeric numeric);

// The selective scan (Decay::kPerCell) without its skip: step[T, G*V], decay_rate[G*V, K] -> [T, H*V]. Nothing is rounded in kFast.
at::Tensor selective_scan(const RecurrenceSpec& spec, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& step,
                          const at::Tensor& decay_rate, const std::vector<Sequence>& sequences, Numeric numeric);

// fn(head) for every head, on torch's threads.
template <class Fn>
void each_head(int heads, Fn&& fn) {
  at::parallel_for(0, heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t head = begin; head < end; ++head) fn(int(head));
  });
}

// Function::apply takes no undefined tensors: an empty one stands for "absent".
inline const at::Tensor& or_empty(const at::Tensor& t) {
  static const at::Tensor empty = at::empty({0});
  return t.defined() ? t : empty;
}
// Where a row of x[T, D] f32 begins; null when x is empty.
inline float* at_row(const at::Tensor& x, int64_t row) { return x.numel() ? x.data_ptr<float>() + row * x.size(1) : nullptr; }

// x[T, D] f32 -> RMS-normed; bf16 in kFast.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& w, double eps, Numeric numeric);
// gate_up[T, 2F] -> SiLU(gate) o up [T, F].
at::Tensor swiglu(const at::Tensor& gate_up, Numeric numeric);

}  // namespace retort::train
