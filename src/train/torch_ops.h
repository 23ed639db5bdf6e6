// The Ops backend (mixers/mixer.h) over LibTorch: what trains a mixer.
//
// Layer: train. One object per call of part_forward(); several may run on several threads.
#pragma once

#include <map>

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
    // A head_linear() that waits to be fused with the feature map after it.
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
  Tensor short_conv(const Tensor& x, const Weight& w, const Weight& b);
  Tensor leaving(const Tensor& x);
  Tensor rope(const Tensor& x, int heads);
  Tensor rms_norm_heads(const Tensor& x, const Weight& w, int heads, double eps);
  Tensor softmax_heads(const Tensor& x, int heads);
  Pair exp_heads(const Tensor& x, int heads);
  Tensor sigmoid(const Tensor& x) { return {at::sigmoid(flat(x))}; }
  Tensor log_sigmoid(const Tensor& x) { return {at::log_sigmoid(flat(x))}; }
  Tensor silu(const Tensor& x) { return {at::silu(flat(x))}; }
  Tensor neg(const Tensor& x) { return {-flat(x)}; }
  Tensor add(const Tensor& a, const Tensor& b) { return {flat(a) + flat(b)}; }
  Tensor mul(const Tensor& a, const Tensor& b) { return {flat(a) * flat(b)}; }
  Tensor add_row(const Tensor& x, const Weight& v) { return {flat(x) + v.t}; }
  Tensor mul_row(const Tensor& x, const Weight& v) { return {flat(x) * v.t}; }
  Tensor scale(const Tensor& x, double c) { return {flat(x) * c}; }
  Tensor mul_heads(const Tensor& x, const Tensor& g, int heads);
  Tensor columns(const Tensor& x, int first, int count) { return {flat(x).narrow(1, first, count)}; }
  Normalised<Tensor> attention(const Tensor& q, const Tensor& k, const Tensor& v, int heads, int kv_heads, const WindowConfig& window);
  Normalised<Tensor> recurrence(const RecurrenceSpec& spec, const RecurrenceInputs<TorchOps>& in);
  Tensor join(const Normalised<Tensor>& a, const Normalised<Tensor>& b, int heads);

  at::Tensor flat(const Tensor& x);                 // [T, columns]

 private:
  const at::Tensor& low(const at::Tensor& x);       // bf16, cast once per tensor

  const Rows& rows_;
  const PartShape& shape_;
  Numeric numeric_;
  at::Tensor low_of_, low_;                         // the last tensor cast: x is shared by q, k, v
};

}  // namespace retort::train
