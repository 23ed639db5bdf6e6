// RWKV-7 (mixers.md 3.14): a decay per key, and a delta rule that reads at one key and writes at another.
//
//   x^c = x_t + mu_c o (x_{t-1} - x_t) for c in r, w, k, v, a, g;   r, k, v = W_r x^r, W_k x^k, W_v x^v
//   log w = -e^{-1/2} sigmoid(w2 tanh(w1 x^w) + w0);   a = sigmoid(a2 a1 x^a + a0);   g = g2 sigmoid(g1 x^g)
//   kappa = L2_head(k o k_k);   k <- k o (1 + (a - 1) o k_a)
//   S_t = Diag(w) S_{t-1} - (kappa o a) (S_{t-1}^T kappa)^T + k v^T;   y = S^T r
//   out = W_o( g o ( GroupNorm_H(y) + (sum_d r_d k_d r_k[d]) v ) )
//
// r, k, v and W_o start as the teacher's (r with attention's 1/sqrt(d)), without a token mix (mu = 0), with k as it is (k_a = 0),
// the bonus off (r_k = 0), a decay of `retention` and g near 1. k, v, w and a stay grouped.
// Left out: the value residual (v mixed with the first layer's), because no layer sees another's values here; a published
// model with one therefore does not fit. With a window, the bonus is left out as well: the window has the current token. Layer: mixers.
#pragma once

#include "mixers/delta.h"
#include "mixers/gate_start.h"

namespace retort {

struct Rwkv7 {
  static constexpr const char* kName = "rwkv7";
  static constexpr const char* kSummary = "RWKV-7: a decay per key and a generalised delta rule, with token shift";
  static constexpr bool kRecurrent = true;
  static constexpr bool kNeedsWindow = false;
  struct Config {
    int decay_low_rank_dim = 32;
    int a_low_rank_dim = 32;
    int gate_low_rank_dim = 96;
    double retention = 0.99;  // decay at the start; the equations keep it above exp(-exp(-1/2)) = 0.5452
    int rope = 0;             // 1: the teacher's rope on r and k
    template <class V>
    void visit(V&& v) {
      v("decay_low_rank_dim", decay_low_rank_dim, 1, 1024);
      v("a_low_rank_dim", a_low_rank_dim, 1, 1024);
      v("gate_low_rank_dim", gate_low_rank_dim, 1, 1024);
      v("retention", retention, 0.546, 1.0 - 1e-6);
      v("rope", rope, 0, 1);
    }
  };
  enum Weight : int {
    kOutput = qkv::kO, kMixR = qkv::kCount, kMixW, kMixK, kMixV, kMixA, kMixG, kKeyKey, kKeyRate, kBonus,
    kDecayDown, kDecayUp, kDecayBias, kRateDown, kRateUp, kRateBias, kGateDown, kGateUp, kNorm, kNormBias, kWeightCount
  };
  static constexpr double kLeastLog = 0.6065306597126334;  // e^{-1/2}

  static std::vector<TensorSpec> tensors(const Config& c, const PartShape& s) {
    auto table = qkv::tensors(s);
    const int64_t keys = s.kv_rows(), values = s.query_rows(), width = s.width;
    using B = InitBlock;
    using enum TeacherSource;
    table[qkv::kQ].name = "r_proj.weight", table[qkv::kQBias].name = "r_proj.bias", table[qkv::kQNorm].name = "r_norm.weight";
    // Where the queries get their last factor.
    if (s.qk_norm) {
      table[qkv::kQNorm].init = {B::teacher(kQueryNorm, 0, s.score_scale())};
    } else {
      table[qkv::kQ].init = {B::teacher(kQuery, 0, s.score_scale())};
      table[qkv::kQBias].init = {B::teacher_bias(kQuery, 0, s.score_scale())};
    }
    constexpr auto kF32 = Precision::kF32;
    constexpr auto kGates = TrainGroup::kGate, kFeatures = TrainGroup::kFeature;
    constexpr auto kKv = HeadAxis::kKvRows, kQueries = HeadAxis::kQueryRows;
    for (const char* name : {"x_r", "x_w", "x_k", "x_v", "x_a", "x_g"}) table.push_back({name, {width}, kF32, kGates, {B::constant(0)}});
    table.push_back({"k_k", {keys}, kF32, kGates, {B::constant(1)}, kKv});
    table.push_back({"k_a", {keys}, kF32, kGates, {B::constant(0)}, kKv});
    table.push_back({"r_k", shape_if(!s.joined(), {values}), kF32, kGates, {B::constant(0)}, kQueries});
    const double share = -std::log(c.retention) / kLeastLog;
    const auto low_rank = [&](const std::string& name, int64_t rank, int64_t rows, double bias) {
      table.push_back({name + ".lora.0.weight", {rank, width}, kF32, kGates, {B::normal(0.02)}});
      table.push_back({name + ".lora.2.weight", {rows, rank}, kF32, kGates, {B::constant(0)}, kKv});
      table.push_back({name + ".lora.2.bias", {rows}, kF32, kGates, {B::constant(bias)}, kKv});
    };
    low_rank("w_lora", c.decay_low_rank_dim, keys, logit(share));
    low_rank("a_lora", c.a_low_rank_dim, keys, -0.19);
    // sigmoid(g1 x) is 1/2 on average: g = 1
    table.push_back({"g_lora.lora.0.weight", {c.gate_low_rank_dim, width}, Precision::kQuantised, kFeatures, {B::normal(0.02)}});
    table.push_back({"g_lora.lora.2.weight", {values, c.gate_low_rank_dim}, Precision::kQuantised, kFeatures,
                     {B::constant(2.0 / c.gate_low_rank_dim)}, kQueries});
    table.push_back({"g_norm.weight", {values}, kF32, kFeatures, {B::head_rms(1)}, kQueries});
    table.push_back({"g_norm.bias", {values}, kF32, kFeatures, {B::constant(0)}, kQueries});
    return table;
  }

  static RecurrenceSpec recurrence(const Config&, const PartShape& s) {
    RecurrenceSpec spec{Decay::kPerKey, s.heads, s.kv_heads, s.head_dim, s.head_dim};
    spec.transition = Transition::kRankOne;
    return spec;
  }

  template <class Ops>
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config& c, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& x) {
    const auto shift = ops.add(ops.previous(x), ops.neg(x));
    const auto mixed = [&](Weight mu) { return ops.add(x, ops.mul_row(shift, w[mu])); };
    RecurrenceInputs<Ops> in;
    in.q = ops.linear(mixed(kMixR), w[qkv::kQ], w[qkv::kQBias]);
    in.local_k = ops.linear(mixed(kMixK), w[qkv::kK], w[qkv::kKBias]);
    in.local_v = ops.linear(mixed(kMixV), w[qkv::kV], w[qkv::kVBias]);
    if (s.qk_norm) {
      in.q = ops.rms_norm_heads(in.q, w[qkv::kQNorm], s.heads, s.norm_eps);
      in.local_k = ops.rms_norm_heads(in.local_k, w[qkv::kKNorm], s.kv_heads, s.norm_eps);
    }
    in.local_q = ops.scale(in.q, 1 / s.score_scale());  // attention has that factor itself
    in.q = qkv::rotated(ops, c.rope, in.q, s.heads);
    // What enters the state leaves the window first; the narrow halves of the low-rank maps take the least room there.
    const auto k = ops.leaving(qkv::rotated(ops, c.rope, in.local_k, s.kv_heads));
    in.v = ops.leaving(in.local_v);
    const auto decay = ops.leaving(ops.tanh(ops.linear(mixed(kMixW), w[kDecayDown])));
    const auto rate = ops.leaving(ops.linear(mixed(kMixA), w[kRateDown]));
    in.log_decay = ops.scale(ops.sigmoid(ops.linear(decay, w[kDecayUp], w[kDecayBias])), -kLeastLog);
    const auto a_logit = ops.linear(rate, w[kRateUp], w[kRateBias]);
    const auto kappa = delta::unit_heads(ops, ops.mul_row(k, w[kKeyKey]), s.kv_heads, s.head_dim);
    in.erase = ops.neg(kappa);
    in.erase_key = ops.mul(kappa, ops.sigmoid(a_logit));
    // 1 - a = sigmoid(-logit)
    in.k = ops.add(k, ops.neg(ops.mul_row(ops.mul(k, ops.sigmoid(ops.neg(a_logit))), w[kKeyRate])));
    in.gate = ops.linear(ops.sigmoid(ops.linear(mixed(kMixG), w[kGateDown])), w[kGateUp]);
    if (w[kBonus]) {
      const auto weight = ops.dot_heads(ops.mul_row(in.q, w[kBonus]), qkv::for_query_heads(ops, s, in.k), s.heads);
      in.bonus = ops.mul_heads(qkv::for_query_heads(ops, s, in.v), weight, s.heads);
    }
    return in;
  }

  template <class Ops>
  static typename Ops::Tensor readout(Ops& ops, const Config&, const PartShape& s, Weights<Ops> w,
                                      const RecurrenceInputs<Ops>& in, const typename Ops::Tensor& y) {
    auto out = ops.add_row(qkv::layer_norm_heads(ops, y, w[kNorm], s.heads, s.head_dim * 1e-5), w[kNormBias]);
    if (w[kBonus]) out = ops.add(out, in.bonus);
    return ops.mul(out, in.gate);
  }
};

}  // namespace retort
