// MetaLA (mixers.md 3.7): a decay per key dimension and its complement as the key, behind one convolution of the layer's input, and an
// extra look at the current token.
//
//   u = SiLU(conv(x));   l = log_sigmoid(W_a u + b_a) / tau;   k = 1 - e^l;   S_t = Diag(e^l) S_{t-1} + k v^T
//   y = S^T q / sqrt(d) + sigmoid((q . (w_aug o k)) v);   out = W_o( SiLU(W_g u + b_g) o LayerNorm_head(y) )
//
// q and v, projections of u, start as the teacher's; values and decays stay grouped. A joined part's window uses the teacher's
// projections of x itself and already has the current token: there is no augmentation then. Layer: mixers.
#pragma once

#include "mixers/gate_start.h"
#include "mixers/qkv.h"

namespace retort {

struct Metala {
  static constexpr const char* kName = "metala";
  static constexpr const char* kSummary = "MetaLA: a decay per key dimension, its complement as the key, self-augmentation";
  static constexpr bool kRecurrent = true;
  static constexpr bool kNeedsWindow = false;
  struct Config {
    int conv_size = 4;               // 0: neither convolution nor activation, u = x
    double gate_temperature = 16.0;  // tau
    double retention = 0.99;         // decay at the start: b_a = logit(retention^tau)
    template <class V>
    void visit(V&& v) {
      v("conv_size", conv_size, 0, 64);
      v("gate_temperature", gate_temperature, 1e-3, 1e4);
      v("retention", retention, 1e-6, 1.0 - 1e-6);
    }
  };
  enum Weight : int { kOutput = qkv::kO, kConv = qkv::kCount, kDecay, kDecayBias, kGate, kGateBias, kAugment, kWeightCount };

  static std::vector<TensorSpec> tensors(const Config& c, const PartShape& s) {
    auto table = qkv::tensors(s);
    qkv::keep_keys_for_window_only(table, s);
    const int64_t keys = s.kv_rows(), values = s.query_rows();
    const double open = logit_of_power(c.retention, c.gate_temperature);
    using B = InitBlock;
    constexpr auto kGates = TrainGroup::kGate;
    table.push_back({"conv1d.weight", shape_if(c.conv_size > 0, {s.width, c.conv_size}), Precision::kF32, TrainGroup::kFeature, {B::identity_conv()}});
    table.push_back({"a_proj.weight", {keys, s.width}, Precision::kF32, kGates, {B::normal(0.02)}, HeadAxis::kKvRows});
    table.push_back({"a_proj.bias", {keys}, Precision::kF32, kGates, {B::constant(open)}, HeadAxis::kKvRows});
    table.push_back(qkv::silu_gate(s));
    table.push_back({"g_proj.bias", {values}, Precision::kF32, kGates, {B::gate_of_head_rms(1)}, HeadAxis::kQueryRows});
    table.push_back({"aug_balance", shape_if(!s.joined(), {values}), Precision::kF32, kGates, {B::constant(0)}, HeadAxis::kQueryRows});
    return table;
  }

  static RecurrenceSpec recurrence(const Config&, const PartShape& s) {
    return {Decay::kPerKey, s.heads, s.kv_heads, s.head_dim, s.head_dim};
  }

  template <class Ops>
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config& c, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& x) {
    RecurrenceInputs<Ops> in;
    if (s.joined()) qkv::set_local(in, qkv::project(ops, s, w, x));
    const auto u = qkv::convolved(ops, x, w[kConv]);
    auto q = ops.linear(u, w[qkv::kQ], w[qkv::kQBias]);
    if (s.qk_norm) q = ops.rms_norm_heads(q, w[qkv::kQNorm], s.heads, s.norm_eps);
    in.q = ops.scale(q, s.score_scale());
    in.v = ops.leaving(ops.linear(u, w[qkv::kV], w[qkv::kVBias]));
    in.log_decay = ops.leaving(ops.scale(ops.log_sigmoid(ops.linear(u, w[kDecay], w[kDecayBias])), 1.0 / c.gate_temperature));
    in.k = ops.one_minus_exp(in.log_decay);
    in.gate = ops.linear(u, w[kGate], w[kGateBias]);
    if (w[kAugment]) {
      const auto share = ops.dot_heads(ops.mul_row(q, w[kAugment]), qkv::for_query_heads(ops, s, in.k), s.heads);
      // sigmoid(u) - 1/2: LayerNorm takes the half out again, and a small y added to it would lose its digits.
      in.bonus = ops.scale(ops.tanh(ops.scale(ops.mul_heads(qkv::for_query_heads(ops, s, in.v), share, s.heads), 0.5)), 0.5);
    }
    return in;
  }

  template <class Ops>
  static typename Ops::Tensor readout(Ops& ops, const Config&, const PartShape& s, Weights<Ops>,
                                      const RecurrenceInputs<Ops>& in, const typename Ops::Tensor& y) {
    const auto whole = in.bonus ? ops.add(y, in.bonus) : y;
    const auto normed = qkv::layer_norm_heads(ops, whole, {}, s.heads, s.norm_eps);
    return ops.mul(normed, ops.silu(in.gate));
  }
};

}  // namespace retort
