// HGRN2 (mixers.md 3.4): what a key dimension forgets is what it takes in, so there are no keys but 1 - f.
//
//   f = c + (1 - c) sigmoid(W_f x + b_f) per key dimension;   k = 1 - f;   S_t = Diag(f) S_{t-1} + k v^T
//   y = S^T SiLU(W_q x) / sqrt(d);   out = W_o RMS(y), over all heads at once
//
// c is the layer's lower bound. Queries and values start as the teacher's and values stay grouped; the teacher's keys are used
// by the window of a joined part alone. Layer: mixers.
#pragma once

#include <algorithm>
#include <cmath>

#include "mixers/gate_start.h"
#include "mixers/qkv.h"

namespace retort {

struct Hgrn2 {
  static constexpr const char* kName = "hgrn2";
  static constexpr const char* kSummary = "HGRN2: a decay per key dimension, its complement as the key";
  static constexpr bool kRecurrent = true;
  static constexpr bool kNeedsWindow = false;
  struct Config {
    double lower_bound = 0.0;  // c
    int forget_bias = 1;       // 0: none, as published; the decay then starts halfway between c and 1
    double retention = 0.99;   // decay at the start, above c; with a bias
    template <class V>
    void visit(V&& v) {
      v("lower_bound", lower_bound, 0.0, 0.999);
      v("forget_bias", forget_bias, 0, 1);
      v("retention", retention, 1e-6, 1.0 - 1e-6);
    }
    Status check() const {
      return !forget_bias || retention > lower_bound ? Status() : invalid("'retention' is ", retention, ", not above 'lower_bound', ", lower_bound);
    }
  };
  enum Weight : int { kOutput = qkv::kO, kForget = qkv::kCount, kForgetBias, kNorm, kWeightCount };

  static std::vector<TensorSpec> tensors(const Config& c, const PartShape& s) {
    auto table = qkv::tensors(s);
    qkv::keep_keys_for_window_only(table, s);
    table[qkv::kV].name = "i_proj.weight";
    table[qkv::kVBias].name = "i_proj.bias";
    const int64_t keys = s.kv_rows(), values = s.query_rows();
    const double open = std::clamp((c.retention - c.lower_bound) / (1 - c.lower_bound), 1e-6, 1 - 1e-6);
    using B = InitBlock;
    constexpr auto kGates = TrainGroup::kGate;
    table.push_back({"f_proj.weight", {keys, s.width}, Precision::kF32, kGates, {B::normal(0.02)}, HeadAxis::kKvRows});
    table.push_back({"f_proj.bias", shape_if(c.forget_bias, {keys}), Precision::kF32, kGates, {B::constant(logit(open))}, HeadAxis::kKvRows});
    table.push_back({"g_norm.weight", {values}, Precision::kF32, TrainGroup::kFeature, {B::head_rms(1)}, HeadAxis::kQueryRows});
    return table;
  }

  static RecurrenceSpec recurrence(const Config&, const PartShape& s) {
    return {Decay::kPerKey, s.heads, s.kv_heads, s.head_dim, s.head_dim};
  }

  template <class Ops>
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config& c, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& x) {
    const auto p = qkv::project(ops, s, w, x);
    const auto z = ops.linear(x, w[kForget], w[kForgetBias]);
    RecurrenceInputs<Ops> in;
    qkv::set_local(in, p);
    in.q = ops.scale(ops.silu(p.q), s.score_scale());
    in.v = ops.leaving(p.v);
    in.log_decay = ops.leaving(bounded(ops, c, s, z));
    in.k = ops.one_minus_exp(in.log_decay);
    return in;
  }

  template <class Ops>
  static typename Ops::Tensor readout(Ops& ops, const Config&, const PartShape& s, Weights<Ops> w,
                                      const RecurrenceInputs<Ops>&, const typename Ops::Tensor& y) {
    return ops.rms_norm_heads(y, w[kNorm], 1, s.norm_eps);
  }

 private:
  // log(c + (1 - c) sigmoid(z)). As 1 - f is (1 - c) sigmoid(-z), the logit of f is log(c + e^z) - log(1 - c), and
  // log(c + e^z) = log c - log_sigmoid(log c - z): no difference of nearly equal numbers where c is near 1.
  template <class Ops>
  static typename Ops::Tensor bounded(Ops& ops, const Config& c, const PartShape& s, const typename Ops::Tensor& z) {
    if (c.lower_bound == 0) return ops.log_sigmoid(z);
    const auto plus = [&](const typename Ops::Tensor& x, double value) {
      return ops.add(x, ops.same_row(z, std::vector<double>(size_t(s.kv_rows()), value)));
    };
    const double log_c = std::log(c.lower_bound);
    const auto above = ops.neg(ops.log_sigmoid(plus(ops.neg(z), log_c)));
    return ops.log_sigmoid(plus(above, log_c - std::log1p(-c.lower_bound)));
  }
};

}  // namespace retort
