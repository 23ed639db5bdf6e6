// Gated linear attention (mixers.md 3.3): a decay per key dimension, computed from the token through a low-rank projection.
//
//   z = W2 W1 x + b;   l = log_sigmoid(z) / tau;   S_t = Diag(e^l) S_{t-1} + k v^T;   y = S^T q / sqrt(d_k)
//   out = W_o( RMS_head(y) o SiLU(W_g x) )
//
// Queries, keys and values start as the teacher's; keys and values stay grouped. Layer: mixers.
#pragma once

#include <cmath>

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
    template <class V>
    void visit(V&& v) {
      v("gate_rank", gate_rank, 1, 1024);
      v("gate_temperature", gate_temperature, 1e-3, 1e4);
      v("retention", retention, 1e-6, 1.0 - 1e-6);
    }
  };
  enum Weight : int { kOutput = qkv::kO, kDecayDown = qkv::kCount, kDecayUp, kDecayBias, kGate, kNorm, kWeightCount };

  static std::vector<TensorSpec> tensors(const Config& c, const PartShape& s) {
    auto table = qkv::tensors(s);
    const int64_t keys = int64_t(s.kv_heads) * s.head_dim, values = int64_t(s.heads) * s.head_dim;
    const double kept = std::pow(c.retention, c.gate_temperature);
    using B = InitBlock;
    constexpr auto kGates = TrainGroup::kGate;
    table.push_back({"gk_proj.0.weight", {c.gate_rank, s.width}, Precision::kF32, kGates, {B::normal(0.02)}});
    table.push_back({"gk_proj.1.weight", {keys, c.gate_rank}, Precision::kF32, kGates, {B::normal(0.02)}, HeadAxis::kKvRows});
    table.push_back({"gk_proj.1.bias", {keys}, Precision::kF32, kGates, {B::constant(std::log(kept / (1 - kept)))}, HeadAxis::kKvRows});
    table.push_back({"g_proj.weight", {values, s.width}, Precision::kQuantised, TrainGroup::kFeature, {B::normal(0.02)}, HeadAxis::kQueryRows});
    table.push_back({"g_norm.weight", {s.head_dim}, Precision::kF32, TrainGroup::kFeature, {B::constant(1)}});
    return table;
  }

  static RecurrenceSpec recurrence(const Config&, const PartShape& s) {
    return {Decay::kPerKey, s.heads, s.kv_heads, s.head_dim, s.head_dim};
  }

  template <class Ops>
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config& c, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& x) {
    auto p = qkv::project(ops, s, w, x);
    auto z = ops.linear(ops.linear(x, w[kDecayDown]), w[kDecayUp], w[kDecayBias]);
    RecurrenceInputs<Ops> in;
    in.local_q = p.q;
    in.local_k = p.k;
    in.local_v = p.v;
    in.q = ops.scale(p.q, 1.0 / std::sqrt(double(s.head_dim)));
    in.k = ops.leaving(p.k);
    in.v = ops.leaving(p.v);
    in.log_decay = ops.leaving(ops.scale(ops.log_sigmoid(z), 1.0 / c.gate_temperature));
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
