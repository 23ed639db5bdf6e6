// The contract between a mixer's equations and the three machines that run them: trainer, runtime, tests.
//
// Layer: mixers. Header-only; knows no torch and no runtime.
//
// A mixer is one header with a struct that has
//
//   static constexpr const char* kName;
//   struct Config { ...; template <class V> void visit(V& v) { v("field", field, least, most); } };
//                                  optional: Status check() const, an error for fields that do not go together
//   enum Weight : int { kQProj, ..., kWeightCount };                       indices into the tensor table
//   static std::vector<TensorSpec> tensors(const Config&, const PartShape&);   one entry per Weight, in order
//                                  optional: start_from_data(), for what it learns from text before training (mixers/data_start.h)
//   static RecurrenceSpec recurrence(const Config&, const PartShape&);
//   template <class Ops> static RecurrenceInputs<Ops> inputs(Ops&, const Config&, const PartShape&, Weights<Ops>, Tensor x);
//   template <class Ops> static typename Ops::Tensor readout(Ops&, const Config&, const PartShape&, Weights<Ops>,
//                                                            const RecurrenceInputs<Ops>&, Tensor y);
//
// and one line in mixers/list.h. `x` is [tokens, D] after the input norm; readout() gives [tokens, H*V], what the output
// projection weights[kOutput] takes. mixers/part.h puts the pieces together: a part's share of the layer's output is
// [tokens, D], and parts are summed.
//
// The Ops concept (every backend: train/torch_ops.h, runtime/runtime_ops.h, mixers/probe_ops.h). Tensors are [tokens, columns];
// heads are blocks of columns. Rows are ragged: several sequences stand one after another, the backend knows where each
// starts, and state never crosses a start.
//
// Tensor and Weight are cheap handles, default-constructible (unset), and convert to bool.
//
//   linear(x, w)               [T, in] x w[out, in] -> [T, out]
//   linear(x, w, b)            b[out] may be absent
//   head_linear(x, w, b, n)    per head: [T, n*in], w[n, out, in], b[n, out] or absent -> [T, n*out]; w[1, out, in] and b[1, out]
//                              are shared by all heads
//   short_conv(x, w, b)        causal depthwise, w[channels, taps], last tap = current token, b[channels] or absent (stateful)
//   leaving(x)                 the row that leaves the part's window at each token: row t - window.size of the same sequence,
//                              zeros where there is none; x itself when the part has no window (stateful)
//   previous(x)                the row before in the same sequence, zeros at its start (stateful)
//   rope(x, n)                 rotate n heads by their position in the sequence
//   rms_norm_heads(x, w, n, eps)   RMS over each of n heads; w[d] shared, w[n*d], or absent
//   softmax_heads(x, n)        softmax over each of n heads' columns
//   exp_heads(x, n)            {exp(x - m), m} with m[T, n] the row maximum of each head
//   center_heads(x, n)         minus the mean of each of n heads
//   mirror_heads(x, n)         per head [x ; -x]: [T, n*d] -> [T, n*2d]
//   square_heads(x, n)         per head phi with phi(a).phi(b) = (a.b)^2, phi(x) = [x_i^2 ; sqrt(2) x_i x_j for i < j]:
//                              [T, n*f] -> [T, n*f(f+1)/2], the second part ordered (0,1), (0,2), .., (1,2), ..
//   repeat_heads(x, n, times)  every head's block `times` times: [T, n*d] -> [T, n*times*d]
//   dot_heads(a, b, n)         per head a . b: [T, n]
//   sigmoid, log_sigmoid, silu, neg, tanh, exp (x)
//   one_minus_exp(x)           1 - e^x without losing digits near 0
//   add(a, b), mul(a, b)       same shape
//   add_row(x, v), mul_row(x, v)      v[columns], every row
//   mul_exp_row(x, v)          x e^v, every row
//   same_row(x, values)        [rows of x, values.size()]: the same numbers in every row
//   scale(x, c)
//   mul_heads(x, g, n)         x[T, n*d] times g[T, n] per head
//   columns(x, first, count)   a slice of columns
//   attention(q, k, v, H, G, window)   softmax attention, q[T,H*d] k[T,G*d] v[T,G*dv], q and k already rotated, scale
//                              1/sqrt(d); window.size 0: full causal -> Normalised{out[T, H*dv], log_norm[T, H]} (stateful)
//   recurrence(spec, inputs)   RecurrenceSpec below -> Normalised; log_norm is unset unless kSum, and is kNothingWritten
//                              where nothing was written yet (stateful)
//   join(a, b, H)              two Normalised under one normaliser: (e^la a + e^lb b) / (e^la + e^lb); a's log_norm is finite
#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/tensor_spec.h"

namespace retort {

// What a part knows about its layer. Head counts are the part's own.
struct PartShape {
  int width = 0;       // D
  int heads = 0;       // query heads this part owns
  int kv_heads = 0;    // kv heads this part owns
  int head_dim = 0;
  float norm_eps = 1e-5f;
  bool qkv_bias = false;
  bool qk_norm = false;
  RopeConfig rope;
  WindowConfig window;
  std::vector<int> kv_numbers;  // which of the layer's kv heads these are; empty: the first ones
  int layer_heads = 0;          // query heads of the whole layer; 0: the part's own
  int group() const { return heads / kv_heads; }
  int64_t query_rows() const { return int64_t(heads) * head_dim; }  // of a tensor with head_dim of them for every query head
  int64_t kv_rows() const { return int64_t(kv_heads) * head_dim; }
  double score_scale() const { return 1.0 / std::sqrt(double(head_dim)); }  // what attention multiplies q . k by
  bool joined() const { return window.size > 0; }  // with an exact window, which has the current token
  // The number in the layer of the part's query head h.
  int layer_head(int h) const { return (kv_numbers.empty() ? h / group() : kv_numbers[size_t(h / group())]) * group() + h % group(); }
};

// What a token's decay has one number for.
enum class Decay {
  kNone,
  kScalar,   // the kv head
  kPerKey,   // each key dimension
  kPerCell,  // each key dimension and value channel (S6): l_t[i, c] = -exp(decay_rate[c, i]) step_t[c]
};

// What the sum S^T q is divided by, with z_t = exp(l_t) o z_{t-1} + k_t.
enum class Normaliser {
  kNone,
  kSum,         // z . q + norm_eps; log_norm is its logarithm, kNothingWritten where z . q is 0
  kAtLeastOne,  // max(|z . q|, 1) (mLSTM); no log_norm
};

// What a token does to the state besides decay (mixers.md 3.8, 3.14); the delta rule is a rank-one change of S.
enum class Transition {
  kDiagonal,  // S_t = D_t S_{t-1} + k_t v_t^T                                    D_t = Diag(exp(l_t))
  kDelta,     // S_t = D_t S_{t-1} + k_t (v_t + S_{t-1}^T a_t)^T                  a = inputs.erase
  kRankOne,   // S_t = D_t S_{t-1} + b_t (S_{t-1}^T a_t)^T + k_t v_t^T            b = inputs.erase_key
};

// The one recurrence (mixers.md 3.1). State S of kv head g: [key_dim, value_dim]; query head h reads the state of
// kv head h / (heads / kv_heads).
//
//   S_t = exp(l_t) o S_{t-1} + k_t v_t^T  (or another Transition)
//   y_t = S_t^T q_t  (or divided by a Normaliser)  (+ skip_h v_t)
//
// kDelta and kRankOne go with Decay::kNone, kScalar or kPerKey and no normaliser; kPerCell with kDiagonal and no normaliser.
//
// With a window the inputs are those of the tokens that leave it (Ops::leaving), and the first `first_position` tokens of a
// sequence write nothing (and decay and erase nothing): they have not left, or are sinks, which the window keeps forever.
struct RecurrenceSpec {
  Decay decay = Decay::kNone;
  int heads = 0;
  int kv_heads = 0;
  int key_dim = 0;     // K
  int value_dim = 0;   // V
  Normaliser normaliser = Normaliser::kNone;
  double norm_eps = 0;  // kSum
  Transition transition = Transition::kDiagonal;
  int first_position = 0;
  bool joins() const { return normaliser == Normaliser::kSum; }  // under one normaliser with a window
  int state_columns() const { return value_dim + (normaliser != Normaliser::kNone ? 1 : 0); }
};

// log of an empty sum. Finite, so that 0 * log_norm is 0 and not NaN in a backward pass; exp of it is exactly 0.
inline constexpr double kNothingWritten = -1e30;
// A sum z . q that is not above this counts as empty: output 0. The exponentials in it span more than floats do, and 1 / it must
// not overflow in a backward pass.
inline constexpr double kLeastNorm = 1e-30;

template <class Tensor>
struct Normalised {
  Tensor out;       // [T, H*V]
  Tensor log_norm;  // [T, H]: log of the sum that out was divided by
};

template <class Ops>
struct RecurrenceInputs {
  using Tensor = typename Ops::Tensor;
  Tensor q;                 // [T, H*K]; for Normaliser::kSum no product with a key is negative
  Tensor k;                 // [T, G*K]
  Tensor v;                 // [T, G*V]
  Tensor log_decay{};       // [T, G] or [T, G*K], <= 0; kPerCell: step_t [T, G*V], >= 0, a factor of v; unset for Decay::kNone
  typename Ops::Weight decay_rate{};  // kPerCell: logarithms, [G*V, K]
  Tensor erase{};           // kDelta, kRankOne: a [T, G*K]
  Tensor erase_key{};       // kRankOne: b [T, G*K]
  Tensor q_log_offset{};    // [T, H]: the true q is exp(q_log_offset) q; only for Normaliser::kSum; unset: 0
  typename Ops::Weight skip{};  // [H], unset: none
  Tensor gate{}, bonus{};   // whatever readout() wants of the token
  // What softmax attention, or the exact window of a joined part, uses, before rope: [T, H*d], [T, G*d], [T, G*V] with the
  // head counts of the part, also where the recurrence has a state for every query head.
  Tensor local_q{}, local_k{}, local_v{};
};

// A row of a mixer's tensor table, filled: weights[Mixer::kQProj]. Absent tensors convert to false.
template <class Ops>
using Weights = const typename Ops::Weight*;

}  // namespace retort
