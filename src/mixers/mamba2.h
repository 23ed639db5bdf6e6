// Mamba-2 (mixers.md 3.6) as Mamba in the Llama starts it from attention: x, B and C take the teacher's values, keys and queries.
//
//   x, B, C = SiLU(norm(conv(W_in u)));   z = W_z u;   D_t = softplus(W_dt u + dt_bias);   l = -e^A_log D_t
//   S_t = e^l S_{t-1} + D_t B x^T;   y = S^T C + D x;   out = W_out RMS_head( y o SiLU(z) )
//
// x and B have as many heads as the teacher's values and keys and are repeated for the query heads of a group behind the convolution: steps
// and decays, and so states, belong to a query head. C takes the 1/sqrt(d) of attention; with `rope` B and C are rotated last. The norm is
// the teacher's of queries and keys, where it has them (Qwen3), on C and B. A joined part has no skip, as its window already has the current
// token. Layer: mixers.
#pragma once

#include <cmath>

#include "mixers/qkv.h"

namespace retort {

struct Mamba2 {
  static constexpr const char* kName = "mamba2";
  static constexpr const char* kSummary = "Mamba-2: a step size per head, short convolution, skip, gated norm";
  static constexpr bool kRecurrent = true;
  static constexpr bool kNeedsWindow = false;
  struct Config {
    int conv_size = 4;
    double retention = 0.999;  // at the start, of the first head; the last has 16 times its decay
    double step = 1.0;         // D_t at the start: how loud a write is beside the skip
    int rope = 0;
    template <class V>
    void visit(V&& v) {
      v("conv_size", conv_size, 1, 64);
      v("retention", retention, 0.5, 1.0 - 1e-6);
      v("step", step, 1e-4, 16.0);
      v("rope", rope, 0, 1);
    }
  };
  enum Weight : int { kIn, kGate, kStep, kConv, kConvBias, kStepBias, kRate, kSkip, kNorm, kOutput, kQueryNorm, kKeyNorm, kWeightCount };

  static std::vector<TensorSpec> tensors(const Config& c, const PartShape& s) {
    const int64_t e = int64_t(s.heads) * s.head_dim, g = int64_t(s.kv_heads) * s.head_dim, h = s.heads;
    const bool joined = s.window.size > 0;
    const std::vector<int64_t> normed = s.qk_norm ? std::vector<int64_t>{s.head_dim} : std::vector<int64_t>{};
    const double slowest = std::log(-std::log(c.retention) / c.step), unscaled = 1.0 / std::sqrt(double(s.head_dim));
    using enum TeacherSource;
    using B = InitBlock;
    constexpr auto kGates = TrainGroup::kGate;
    constexpr auto kByHead = HeadAxis::kQueryRows, kBlocksByHead = HeadAxis::kRowsOfBlocks;
    return {
        {"in_proj.weight", {2 * g + e, s.width}, Precision::kQuantised, TrainGroup::kProjection,
         {B::teacher(kValue, g).of_kv_heads(), B::teacher(kKey, g).of_kv_heads(), B::teacher(kQuery, e, unscaled)}, kBlocksByHead},
        {"in_proj_z.weight", {e, s.width}, Precision::kQuantised, TrainGroup::kFeature, {B::normal(0.02)}, kByHead},
        {"dt_proj.weight", {h, s.width}, Precision::kF32, kGates, {B::constant(0)}, kByHead},
        {"conv1d.weight", {2 * g + e, c.conv_size}, Precision::kF32, TrainGroup::kFeature,
         {B::identity_conv(g).of_kv_heads(), B::identity_conv(g).of_kv_heads(), B::identity_conv(e)}, kBlocksByHead},
        // Behind an identity it is the teacher's bias.
        {"conv1d.bias", {2 * g + e}, Precision::kF32, TrainGroup::kProjection,
         {B::teacher_bias(kValue, g).of_kv_heads(), B::teacher_bias(kKey, g).of_kv_heads(), B::teacher_bias(kQuery, e, unscaled)}, kBlocksByHead},
        {"dt_bias", {h}, Precision::kF32, kGates, {B::constant(std::log(std::expm1(c.step)))}, kByHead},
        {"A_log", {h}, Precision::kF32, kGates, {B::linspace(slowest, slowest + std::log(16.0))}, kByHead},
        {"D", joined ? std::vector<int64_t>{} : std::vector<int64_t>{h}, Precision::kF32, kGates, {B::constant(1)}, kByHead},
        {"norm.weight", {e}, Precision::kF32, TrainGroup::kFeature, {B::head_rms(1)}, kByHead},
        {"out_proj.weight", {s.width, e}, Precision::kQuantised, TrainGroup::kProjection, {B::teacher(kOutput)}, HeadAxis::kQueryColumns},
        {"q_norm.weight", normed, Precision::kF32, TrainGroup::kProjection, {B::teacher(kQueryNorm)}},
        {"k_norm.weight", normed, Precision::kF32, TrainGroup::kProjection, {B::teacher(kKeyNorm)}},
    };
  }

  static RecurrenceSpec recurrence(const Config&, const PartShape& s) {
    return {Decay::kScalar, s.heads, s.heads, s.head_dim, s.head_dim};
  }

  template <class Ops>
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config& c, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& u) {
    const int e = s.heads * s.head_dim, g = s.kv_heads * s.head_dim;
    const auto expand = [&](const typename Ops::Tensor& t) { return ops.repeat_heads(t, s.kv_heads, s.group()); };
    const auto conv = ops.short_conv(ops.linear(u, w[kIn]), w[kConv], w[kConvBias]);
    RecurrenceInputs<Ops> in;
    in.local_v = ops.columns(conv, 0, g);
    in.local_k = ops.columns(conv, g, g);
    auto q = ops.columns(conv, 2 * g, e);
    in.local_q = ops.scale(q, std::sqrt(double(s.head_dim)));  // attention divides by sqrt(d) itself
    if (s.qk_norm) {
      in.local_q = ops.rms_norm_heads(in.local_q, w[kQueryNorm], s.heads, s.norm_eps);
      in.local_k = ops.rms_norm_heads(in.local_k, w[kKeyNorm], s.kv_heads, s.norm_eps);
      q = ops.scale(in.local_q, 1.0 / std::sqrt(double(s.head_dim)));
    }
    // Minus the step size of the token that leaves the window.
    const auto log_open = ops.leaving(ops.log_sigmoid(ops.neg(ops.linear(u, w[kStep], w[kStepBias]))));
    in.q = qkv::rotated(ops, c.rope, ops.silu(q), s.heads);
    const auto k = ops.leaving(qkv::rotated(ops, c.rope, ops.silu(in.local_k), s.kv_heads));
    in.k = ops.mul_heads(expand(k), ops.neg(log_open), s.heads);
    in.v = expand(ops.leaving(ops.silu(in.local_v)));
    in.log_decay = ops.mul_exp_row(log_open, w[kRate]);
    in.skip = w[kSkip];
    in.gate = ops.linear(u, w[kGate]);
    return in;
  }

  template <class Ops>
  static typename Ops::Tensor readout(Ops& ops, const Config&, const PartShape& s, Weights<Ops> w,
                                      const RecurrenceInputs<Ops>& in, const typename Ops::Tensor& y) {
    return ops.rms_norm_heads(ops.mul(y, ops.silu(in.gate)), w[kNorm], s.heads, s.norm_eps);
  }
};

}  // namespace retort
