// Gated DeltaNet (mixers.md 3.13): the delta rule on a state that decays, by one number per kv head and token.
//
//   l = -exp(A_log) softplus(W_a x + dt_bias);   beta = sigmoid(W_b x) (twice that with allow_neg_eigval)
//   S_t = e^l S_{t-1} + beta k (v - e^l S_{t-1}^T k)^T;   y = S^T q
//   out = W_o( RMS_head(y) o SiLU(W_g x) )                      q, k, v: mixers/delta.h
//
// Queries, keys and values start as the teacher's; keys, values and gates stay grouped. W_a starts at 0, A at 1 and dt_bias where
// e^l is `retention`. Layer: mixers.
#pragma once

#include "mixers/delta.h"

namespace retort {

struct GatedDeltaNet {
  static constexpr const char* kName = "gated_deltanet";
  static constexpr const char* kSummary = "delta rule with a data-dependent decay per head";
  static constexpr bool kRecurrent = true;
  static constexpr bool kNeedsWindow = false;
  struct Config {
    int conv_size = 4;         // 0: no convolution and no SiLU
    int allow_neg_eigval = 0;  // beta up to 2: the state may change sign along a key
    double retention = 0.99;   // decay at the start
    int rope = 0;
    template <class V>
    void visit(V&& v) {
      v("conv_size", conv_size, 0, 64);
      v("allow_neg_eigval", allow_neg_eigval, 0, 1);
      v("retention", retention, 1e-6, 1.0 - 1e-6);
      v("rope", rope, 0, 1);
    }
  };
  enum Weight : int { kOutput = qkv::kO, kBeta = delta::kCount, kDecay, kDecayRate, kDecayBias, kGate, kNorm, kWeightCount };

  static std::vector<TensorSpec> tensors(const Config& c, const PartShape& s) {
    auto table = delta::tensors(c.conv_size, s);
    const int64_t values = int64_t(s.heads) * s.head_dim, g = s.kv_heads;
    const double bias = std::log(std::expm1(-std::log(c.retention)));  // softplus(bias) = -log(retention)
    using B = InitBlock;
    constexpr auto kGates = TrainGroup::kGate;
    table.push_back({"b_proj.weight", {g, s.width}, Precision::kF32, kGates, {B::normal(0.02)}, HeadAxis::kKvRows});
    table.push_back({"a_proj.weight", {g, s.width}, Precision::kF32, kGates, {B::constant(0)}, HeadAxis::kKvRows});
    table.push_back({"A_log", {g}, Precision::kF32, kGates, {B::constant(0)}, HeadAxis::kKvRows});
    table.push_back({"dt_bias", {g}, Precision::kF32, kGates, {B::constant(bias)}, HeadAxis::kKvRows});
    table.push_back({"g_proj.weight", {values, s.width}, Precision::kQuantised, TrainGroup::kFeature, {B::normal(0.02)}, HeadAxis::kQueryRows});
    table.push_back({"o_norm.weight", {s.head_dim}, Precision::kF32, TrainGroup::kFeature, {B::head_rms(1)}});
    return table;
  }

  static RecurrenceSpec recurrence(const Config&, const PartShape& s) {
    RecurrenceSpec spec{Decay::kScalar, s.heads, s.kv_heads, s.head_dim, s.head_dim};
    spec.transition = Transition::kDelta;
    return spec;
  }

  template <class Ops>
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config& c, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& x) {
    auto in = delta::inputs(ops, c.rope, s, w, x);
    const auto beta = ops.scale(ops.sigmoid(ops.leaving(ops.linear(x, w[kBeta]))), c.allow_neg_eigval ? 2 : 1);
    const auto step = ops.add_row(ops.leaving(ops.linear(x, w[kDecay])), w[kDecayBias]);
    in.log_decay = ops.mul_exp_row(ops.log_sigmoid(ops.neg(step)), w[kDecayRate]);  // -softplus(z) = log sigmoid(-z)
    in.erase = ops.mul_heads(ops.neg(in.k), ops.exp(in.log_decay), s.kv_heads);
    in.k = ops.mul_heads(in.k, beta, s.kv_heads);
    in.gate = ops.linear(x, w[kGate]);
    return in;
  }

  template <class Ops>
  static typename Ops::Tensor readout(Ops& ops, const Config&, const PartShape& s, Weights<Ops> w,
                                      const RecurrenceInputs<Ops>& in, const typename Ops::Tensor& y) {
    return ops.mul(ops.rms_norm_heads(y, w[kNorm], s.heads, s.norm_eps), ops.silu(in.gate));
  }
};

}  // namespace retort
