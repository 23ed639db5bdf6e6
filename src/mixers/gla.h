// Gated linear attention (mixers.md 3.3): a decay per key dimension, computed from the token through a low-rank projection.
//
//   z = W2 W1 x + b;   l = log_sigmoid(z) / tau;   S_t = Diag(e^l) S_{t-1} + k v^T;   y = S^T q / sqrt(d_k)
//   out = W_o( RMS_head(y) o SiLU(W_g x) )
//
// With conv_size, q, k and v are SiLU(conv(.)) of their projections first. Queries, keys and values start as the teacher's; keys and values
// stay grouped. Layer: mixers.
#pragma once

#include "mixers/gate_start.h"
#include "mixers/qkv.h"

namespace retort {

struct Gla {
  static constexpr const char* kName = "gla";
  static constexpr const char* kSummary = "gated linear attention: a data-dependent decay per key dimension";
  static constexpr bool kRecurrent = true;
  static constexpr bool kNeedsWindow = false;
  struct Config {
    int gate_rank = 16;
    double gate_temperature = 16.0;  // tau
    double retention = 0.99;         // decay at the start: bias = logit(retention^tau)
    int conv_size = 0;               // 0: no convolutions
    int rope = 0;
    template <class V>
    void visit(V&& v) {
      v("gate_rank", gate_rank, 1, 1024);
      v("gate_temperature", gate_temperature, 1e-3, 1e4);
      v("retention", retention, 1e-6, 1.0 - 1e-6);
      v("conv_size", conv_size, 0, 64);
      v("rope", rope, 0, 1);
    }
  };
  enum Weight : int {
    kOutput = qkv::kO, kDecayDown = qkv::kCount, kDecayUp, kDecayBias, kGate, kNorm, kConv, kWeightCount = kConv + qkv::kConvCount
  };

  static std::vector<TensorSpec> tensors(const Config& c, const PartShape& s) {
    auto table = qkv::tensors(s);
    const int64_t keys = s.kv_rows();
    const double open = logit_of_power(c.retention, c.gate_temperature);
    using B = InitBlock;
    constexpr auto kGates = TrainGroup::kGate;
    table.push_back({"gk_proj.0.weight", {c.gate_rank, s.width}, Precision::kF32, kGates, {B::normal(0.02)}});
    table.push_back({"gk_proj.1.weight", {keys, c.gate_rank}, Precision::kF32, kGates, {B::normal(0.02)}, HeadAxis::kKvRows});
    table.push_back({"gk_proj.1.bias", {keys}, Precision::kF32, kGates, {B::constant(open)}, HeadAxis::kKvRows});
    table.push_back(qkv::silu_gate(s));
    table.push_back(qkv::head_norm("g_norm.weight", s));
    qkv::add_convs(table, c.conv_size, s);
    return table;
  }

  static RecurrenceSpec recurrence(const Config&, const PartShape& s) {
    return {Decay::kPerKey, s.heads, s.kv_heads, s.head_dim, s.head_dim};
  }

  template <class Ops>
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config& c, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& x) {
    const auto p = qkv::project(ops, s, w, x);
    const auto convolved = [&](const typename Ops::Tensor& t, int which) { return qkv::convolved(ops, t, w[kConv + which]); };
    const auto z = ops.linear(ops.linear(x, w[kDecayDown]), w[kDecayUp], w[kDecayBias]);
    RecurrenceInputs<Ops> in;
    qkv::set_local(in, p);
    in.q = ops.scale(qkv::rotated(ops, c.rope, convolved(p.q, qkv::kQConv), s.heads), s.score_scale());
    in.k = ops.leaving(qkv::rotated(ops, c.rope, convolved(p.k, qkv::kKConv), s.kv_heads));
    in.v = ops.leaving(convolved(p.v, qkv::kVConv));
    in.log_decay = ops.leaving(ops.scale(ops.log_sigmoid(z), 1.0 / c.gate_temperature));
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
