// DeltaNet (mixers.md 3.8): a token first reads what the state holds for its key, and writes the difference to its value.
//
//   beta = sigmoid(W_b x) (twice that with allow_neg_eigval);   S_t = S_{t-1} + beta k (v - S_{t-1}^T k)^T;   y = S^T q
//   out = W_o( RMS_head(y) [o SiLU(W_g x)] )                    q, k, v: mixers/delta.h
//
// Queries, keys and values start as the teacher's; keys, values and beta stay grouped. Layer: mixers.
#pragma once

#include "mixers/delta.h"

namespace retort {

struct DeltaNet {
  static constexpr const char* kName = "deltanet";
  static constexpr const char* kSummary = "delta rule: a token corrects what the state holds for its key";
  static constexpr bool kRecurrent = true;
  static constexpr bool kNeedsWindow = false;
  struct Config {
    int conv_size = 4;         // 0: no convolution and no SiLU
    int allow_neg_eigval = 0;  // beta up to 2: the state may change sign along a key
    int output_gate = 0;
    int rope = 0;
    template <class V>
    void visit(V&& v) {
      v("conv_size", conv_size, 0, 64);
      v("allow_neg_eigval", allow_neg_eigval, 0, 1);
      v("output_gate", output_gate, 0, 1);
      v("rope", rope, 0, 1);
    }
  };
  enum Weight : int { kOutput = qkv::kO, kBeta = delta::kCount, kNorm, kGate, kWeightCount };

  static std::vector<TensorSpec> tensors(const Config& c, const PartShape& s) {
    auto table = delta::tensors(c.conv_size, s);
    const auto gate = c.output_gate ? std::vector<int64_t>{int64_t(s.heads) * s.head_dim, s.width} : std::vector<int64_t>{};
    using B = InitBlock;
    table.push_back({"b_proj.weight", {s.kv_heads, s.width}, Precision::kF32, TrainGroup::kGate, {B::normal(0.02)}, HeadAxis::kKvRows});
    table.push_back({"o_norm.weight", {s.head_dim}, Precision::kF32, TrainGroup::kFeature, {B::head_rms(1)}});
    table.push_back({"g_proj.weight", gate, Precision::kQuantised, TrainGroup::kFeature, {B::normal(0.02)}, HeadAxis::kQueryRows});
    return table;
  }

  static RecurrenceSpec recurrence(const Config&, const PartShape& s) {
    RecurrenceSpec spec{Decay::kNone, s.heads, s.kv_heads, s.head_dim, s.head_dim};
    spec.transition = Transition::kDelta;
    return spec;
  }

  template <class Ops>
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config& c, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& x) {
    auto in = delta::inputs(ops, c.rope, s, w, x);
    const auto beta = ops.scale(ops.sigmoid(ops.leaving(ops.linear(x, w[kBeta]))), c.allow_neg_eigval ? 2 : 1);
    in.erase = ops.neg(in.k);
    in.k = ops.mul_heads(in.k, beta, s.kv_heads);
    if (w[kGate]) in.gate = ops.linear(x, w[kGate]);
    return in;
  }

  template <class Ops>
  static typename Ops::Tensor readout(Ops& ops, const Config&, const PartShape& s, Weights<Ops> w,
                                      const RecurrenceInputs<Ops>& in, const typename Ops::Tensor& y) {
    const auto normed = ops.rms_norm_heads(y, w[kNorm], s.heads, s.norm_eps);
    return w[kGate] ? ops.mul(normed, ops.silu(in.gate)) : normed;
  }
};

}  // namespace retort
