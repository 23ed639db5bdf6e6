// mLSTM (mixers.md 3.2), the matrix memory of xLSTM-7B: a forget and an input gate per kv head, a normaliser with a floor of one.
//
//   i, f = cap tanh((W x + b) / cap);   a_t = sigmoid(f);   S_t = a_t S_{t-1} + e^i k v^T;   z_t = a_t z_{t-1} + e^i k
//   y = S^T q / max(|z . q|, 1), q over sqrt(d);   out = W_o( sigmoid(W_g x) o LayerNorm_head(y) )
//   coupled: 1 - sigmoid(f) in the place of e^i, and no input gate
//
// The cap is at most 30, so e^i fits a float and no running maximum is needed. Queries, keys and values start as the teacher's;
// keys and values stay grouped. Layer: mixers.
#pragma once

#include <cmath>

#include "mixers/gate_start.h"
#include "mixers/qkv.h"

namespace retort {

struct Mlstm {
  static constexpr const char* kName = "mlstm";
  static constexpr const char* kSummary = "mLSTM of xLSTM: exponential input gate, normaliser with a floor";
  static constexpr bool kRecurrent = true;
  static constexpr bool kNeedsWindow = false;
  struct Config {
    double soft_cap = 15.0;
    int coupled = 0;             // 1: the input gate is 1 - the forget gate
    double retention = 0.9975;   // of the slowest head at the start; the fastest head's logit is half its logit: 3 to 6
    int rope = 0;
    template <class V>
    void visit(V&& v) {
      v("soft_cap", soft_cap, 1.0, 30.0);
      v("coupled", coupled, 0, 1);
      v("retention", retention, 0.5, 1.0 - 1e-6);
      v("rope", rope, 0, 1);
    }
    Status check() const {
      if (logit(retention) < soft_cap) return {};
      const double most = 1 / (1 + std::exp(-soft_cap));
      return invalid("'retention' is ", retention, ", but with 'soft_cap' ", soft_cap, " no gate keeps more than ", most);
    }
  };
  enum Weight : int {
    kOutput = qkv::kO, kOutputGate = qkv::kCount, kInputGate, kInputGateBias, kForgetGate, kForgetGateBias, kNorm, kWeightCount
  };

  static std::vector<TensorSpec> tensors(const Config& c, const PartShape& s) {
    auto table = qkv::tensors(s);
    const int64_t values = s.query_rows(), g = s.kv_heads;
    const auto behind_cap = [&](double gate) { return c.soft_cap * std::atanh(gate / c.soft_cap); };
    const double slowest = behind_cap(logit(c.retention)), fastest = g > 1 ? behind_cap(logit(c.retention) / 2) : slowest;  // an only head is the slowest
    const auto separate = [&](Shape shape) { return shape_if(!c.coupled, shape); };
    using B = InitBlock;
    constexpr auto kGates = TrainGroup::kGate;
    table.push_back({"ogate_proj.weight", {values, s.width}, Precision::kQuantised, TrainGroup::kFeature,
                     {B::normal(std::sqrt(0.4 / s.width))}, HeadAxis::kQueryRows});
    table.push_back({"igate_proj.weight", separate({g, s.width}), Precision::kF32, kGates, {B::constant(0)}, HeadAxis::kKvRows});
    table.push_back({"igate_proj.bias", separate({g}), Precision::kF32, kGates, {B::linspace(-fastest, -slowest)}, HeadAxis::kKvRows});
    table.push_back({"fgate_proj.weight", {g, s.width}, Precision::kF32, kGates, {B::constant(0)}, HeadAxis::kKvRows});
    table.push_back({"fgate_proj.bias", {g}, Precision::kF32, kGates, {B::linspace(fastest, slowest)}, HeadAxis::kKvRows});
    // The output gate starts at a half.
    table.push_back({"norm.weight", {values}, Precision::kF32, TrainGroup::kFeature, {B::head_rms(2)}, HeadAxis::kQueryRows});
    return table;
  }

  static RecurrenceSpec recurrence(const Config&, const PartShape& s) {
    return {Decay::kScalar, s.heads, s.kv_heads, s.head_dim, s.head_dim, Normaliser::kAtLeastOne};
  }

  template <class Ops>
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config& c, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& x) {
    const auto capped = [&](const typename Ops::Tensor& u) { return ops.scale(ops.tanh(ops.scale(u, 1 / c.soft_cap)), c.soft_cap); };
    const auto p = qkv::project(ops, s, w, x);
    RecurrenceInputs<Ops> in;
    qkv::set_local(in, p);
    const auto forget = capped(ops.linear(x, w[kForgetGate], w[kForgetGateBias]));
    const auto write = c.coupled ? ops.sigmoid(ops.neg(forget)) : ops.exp(capped(ops.linear(x, w[kInputGate], w[kInputGateBias])));
    in.q = ops.scale(qkv::rotated(ops, c.rope, p.q, s.heads), s.score_scale());
    in.k = ops.leaving(ops.mul_heads(qkv::rotated(ops, c.rope, p.k, s.kv_heads), write, s.kv_heads));
    in.v = ops.leaving(p.v);
    in.log_decay = ops.leaving(ops.log_sigmoid(forget));
    in.gate = ops.linear(x, w[kOutputGate]);
    return in;
  }

  template <class Ops>
  static typename Ops::Tensor readout(Ops& ops, const Config&, const PartShape& s, Weights<Ops> w,
                                      const RecurrenceInputs<Ops>& in, const typename Ops::Tensor& y) {
    const auto normed = qkv::layer_norm_heads(ops, y, w[kNorm], s.heads, s.norm_eps);
    return ops.mul(normed, ops.sigmoid(in.gate));
  }
};

}  // namespace retort
