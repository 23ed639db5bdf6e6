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
#include "mixers/gate_start.h"

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
  enum Weight : int { kOutput = qkv::kO, kDecay = delta::kCount, kDecayRate, kDecayBias, kGate, kNorm, kWeightCount };

  static std::vector<TensorSpec> tensors(const Config& c, const PartShape& s) {
    auto table = delta::tensors(c.conv_size, s);
    const int64_t g = s.kv_heads;
    using B = InitBlock;
    constexpr auto kGates = TrainGroup::kGate;
    table.push_back({"a_proj.weight", {g, s.width}, Precision::kF32, kGates, {B::constant(0)}, HeadAxis::kKvRows});
    table.push_back({"A_log", {g}, Precision::kF32, kGates, {B::constant(0)}, HeadAxis::kKvRows});
    table.push_back({"dt_bias", {g}, Precision::kF32, kGates, {B::constant(inverse_softplus(-std::log(c.retention)))}, HeadAxis::kKvRows});
    table.push_back(qkv::silu_gate(s));
    table.push_back(qkv::head_norm("o_norm.weight", s));
    return table;
  }

  static RecurrenceSpec recurrence(const Config&, const PartShape& s) {
    return delta::recurrence(Decay::kScalar, s);
  }

  template <class Ops>
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config& c, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& x) {
    auto in = delta::inputs(ops, c.rope, s, w, x);
    const auto beta = delta::beta(ops, c.allow_neg_eigval, w, x);
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
    return qkv::gated_norm(ops, s, y, w[kNorm], in.gate);
  }
};

}  // namespace retort
