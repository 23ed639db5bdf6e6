// The Ops backend (mixers/mixer.h) over LibTorch: what trains a mixer.
//
// Layer: train. One object per call of part_forward(); several may run on several threads.
#pragma once

#include "train/functions.h"

namespace retort::train {

// How the rows of a batch fall into sequences, and what follows from it; shared by all layers and threads.
struct Rows {
  int64_t total = 0;
  std::vector<Sequence> sequences;
  RopeTable rope;

  static Rows make(const std::vector<Sequence>& sequences, const RopeConfig& rope, int head_dim, at::ScalarType type);
};

class TorchOps {
 public:
  struct Tensor {
    Tensor() = default;
    Tensor(at::Tensor tensor) : t(std::move(tensor)) {}
    explicit operator bool() const { return t.defined() || lazy_weight.defined(); }

    at::Tensor t;  // [T, columns]
    // A head_linear() that waits to be fused with the feature map after it; with shared weights every head is a row of one.
    at::Tensor lazy_input, lazy_weight, lazy_bias;
  };
  struct Weight {
    at::Tensor t;
    explicit operator bool() const { return t.defined(); }
  };
  struct Pair {
    Tensor values, maximum;
  };

  TorchOps(const Rows& rows, const PartShape& shape, Numeric numeric) : rows_(rows), shape_(shape), numeric_(numeric) {}

  Tensor linear(const Tensor& x, const Weight& w, const Weight& b = {});
  Tensor head_linear(const Tensor& x, const Weight& w, const Weight& b, int heads);
  Tensor short_conv(const Tensor& x, const Weight& w, const Weight& b) {
    return {train::short_conv(flat(x), w.t, b.t, rows_.sequences, numeric_)};
  }
  Tensor leaving(const Tensor& x) { return shape_.window.size == 0 ? x : Tensor(earlier(flat(x), shape_.window.size, rows_.sequences)); }
  Tensor previous(const Tensor& x) { return {earlier(flat(x), 1, rows_.sequences)}; }
  Tensor rope(const Tensor& x, int heads);
  Tensor rms_norm_heads(const Tensor& x, const Weight& w, int heads, double eps) {
    return {train::rms_norm_heads(flat(x), w.t, heads, eps, numeric_)};
  }
  Tensor softmax_heads(const Tensor& x, int heads);
  Pair exp_heads(const Tensor& x, int heads);
  Tensor center_heads(const Tensor& x, int heads);
  Tensor mirror_heads(const Tensor& x, int heads);
  Tensor square_heads(const Tensor& x, int heads);
  Tensor repeat_heads(const Tensor& x, int heads, int times);
  Tensor dot_heads(const Tensor& a, const Tensor& b, int heads);
  Tensor sigmoid(const Tensor& x) { return {at::sigmoid(flat(x))}; }
  Tensor log_sigmoid(const Tensor& x) { return {at::log_sigmoid(flat(x))}; }
  Tensor silu(const Tensor& x) { return {at::silu(flat(x))}; }
  Tensor neg(const Tensor& x) { return {-flat(x)}; }
  Tensor tanh(const Tensor& x) { return {at::tanh(flat(x))}; }
  Tensor exp(const Tensor& x) { return {at::exp(flat(x))}; }
  Tensor one_minus_exp(const Tensor& x) { return {-at::expm1(flat(x))}; }
  Tensor add(const Tensor& a, const Tensor& b) { return {flat(a) + flat(b)}; }
  Tensor mul(const Tensor& a, const Tensor& b) { return {flat(a) * flat(b)}; }
  Tensor add_row(const Tensor& x, const Weight& v) { return {flat(x) + v.t}; }
  Tensor mul_row(const Tensor& x, const Weight& v) { return {flat(x) * v.t}; }
  Tensor mul_exp_row(const Tensor& x, const Weight& v) { return {flat(x) * v.t.exp()}; }
  Tensor same_row(const Tensor& x, const std::vector<double>& values);
  Tensor scale(const Tensor& x, double c) { return {flat(x) * c}; }
  Tensor mul_heads(const Tensor& x, const Tensor& g, int heads);
  Tensor columns(const Tensor& x, int first, int count);
  Normalised<Tensor> attention(const Tensor& q, const Tensor& k, const Tensor& v, int heads, int kv_heads, const WindowConfig& window);
  Normalised<Tensor> recurrence(const RecurrenceSpec& spec, const RecurrenceInputs<TorchOps>& in);
  Tensor join(const Normalised<Tensor>& a, const Normalised<Tensor>& b, int heads);

  at::Tensor flat(const Tensor& x);                 // [T, columns]

 private:
  at::Tensor by_head(const Tensor& x, int heads) { return flat(x).reshape({rows_.total, heads, -1}); }
  const at::Tensor& low(const at::Tensor& x);       // bf16, cast once per tensor

  const Rows& rows_;
  const PartShape& shape_;
  Numeric numeric_;
  at::Tensor low_of_, low_;                         // the last tensor cast: x is shared by q, k, v
  std::vector<Slices> slices_;                      // of every tensor that columns() was called on
};

}  // namespace retort::train
