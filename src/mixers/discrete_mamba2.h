// Discrete Mamba-2 (mixers.md 3.12), the student of Llamba / MOHAWK: no step size, a decay per head projected from the token,
// a short convolution without activation, a skip and a gate that both start as the identity.
//
//   x, B, C = norm(conv(W_in u));   z = W_z u;   a = W_a u (+ b_a)
//   l = log_sigmoid(-a);   S_t = e^l S_{t-1} + B x^T;   y = S^T C + D x;   out = W_out( y o SiLU(z + z_bias) )
//
// x and B have as many heads as the teacher's values and keys, which they start as, and are repeated for the query heads of a group behind
// the convolution: decays, and so states, belong to a query head. C takes the teacher's queries and the 1/sqrt(d) of attention; with `rope`
// B and C are rotated last. The norm is the teacher's of its queries and keys, where it has them (Qwen3), on C and B. W_a starts at 0, so a state
// keeps a half of itself a token; another `retention` gives a the bias that does so. Layer: mixers.
#pragma once

#include <cmath>

#include "mixers/logit.h"
#include "mixers/qkv.h"

namespace retort {

struct DiscreteMamba2 {
  static constexpr const char* kName = "discrete_mamba2";
  static constexpr const char* kSummary = "Mamba-2 as in Llamba: scalar decay per head, short convolution, skip, gate";
  static constexpr bool kRecurrent = true;
  static constexpr bool kNeedsWindow = false;
  struct Config {
    int conv_size = 4;
    double retention = 0.5;  // decay at the start; 0.5, as published: no bias
    int rope = 0;
    template <class V>
    void visit(V&& v) {
      v("conv_size", conv_size, 1, 64);
      v("retention", retention, 0.5, 1.0 - 1e-6);
      v("rope", rope, 0, 1);
    }
  };
  enum Weight : int { kIn, kGate, kDecay, kConv, kConvBias, kSkip, kGateBias, kOutput, kQueryNorm, kKeyNorm, kDecayBias, kWeightCount };
  static constexpr double kSiluIsOne = 1.278464542761;  // SiLU(1.278464542761) = 1

  static std::vector<TensorSpec> tensors(const Config& c, const PartShape& s) {
    const int64_t e = int64_t(s.heads) * s.head_dim, g = int64_t(s.kv_heads) * s.head_dim, h = s.heads;
    const bool joined = s.window.size > 0;  // the window already has the current token: no skip
    const std::vector<int64_t> normed = s.qk_norm ? std::vector<int64_t>{s.head_dim} : std::vector<int64_t>{};
    const double unscaled = 1.0 / std::sqrt(double(s.head_dim));
    using enum TeacherSource;
    using B = InitBlock;
    return {
        {"in_proj.weight", {2 * g + e, s.width}, Precision::kQuantised, TrainGroup::kProjection,
         {B::teacher(kValue, g).of_kv_heads(), B::teacher(kKey, g).of_kv_heads(), B::teacher(kQuery, e, unscaled)}, HeadAxis::kRowsOfBlocks},
        {"in_proj_z.weight", {e, s.width}, Precision::kQuantised, TrainGroup::kFeature, {B::constant(0)}, HeadAxis::kQueryRows},
        {"a_proj.weight", {h, s.width}, Precision::kF32, TrainGroup::kGate, {B::constant(0)}, HeadAxis::kQueryRows},
        {"conv1d.weight", {2 * g + e, c.conv_size}, Precision::kF32, TrainGroup::kFeature,
         {B::identity_conv(g).of_kv_heads(), B::identity_conv(g).of_kv_heads(), B::identity_conv(e)}, HeadAxis::kRowsOfBlocks},
        // Behind an identity it is the teacher's bias.
        {"conv1d.bias", {2 * g + e}, Precision::kF32, TrainGroup::kProjection,
         {B::teacher_bias(kValue, g).of_kv_heads(), B::teacher_bias(kKey, g).of_kv_heads(), B::teacher_bias(kQuery, e, unscaled)},
         HeadAxis::kRowsOfBlocks},
        {"D", joined ? std::vector<int64_t>{} : std::vector<int64_t>{h}, Precision::kF32, TrainGroup::kGate, {B::constant(1)}, HeadAxis::kQueryRows},
        {"z_bias", {e}, Precision::kF32, TrainGroup::kGate, {B::constant(kSiluIsOne)}, HeadAxis::kQueryRows},
        {"out_proj.weight", {s.width, e}, Precision::kQuantised, TrainGroup::kProjection, {B::teacher(kOutput)}, HeadAxis::kQueryColumns},
        {"q_norm.weight", normed, Precision::kF32, TrainGroup::kProjection, {B::teacher(kQueryNorm)}},
        {"k_norm.weight", normed, Precision::kF32, TrainGroup::kProjection, {B::teacher(kKeyNorm)}},
        {"a_proj.bias", c.retention == 0.5 ? std::vector<int64_t>{} : std::vector<int64_t>{h}, Precision::kF32, TrainGroup::kGate,
         {B::constant(-logit_of_power(c.retention, 1))}, HeadAxis::kQueryRows},
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
    const auto xbc = ops.short_conv(ops.linear(u, w[kIn]), w[kConv], w[kConvBias]);
    RecurrenceInputs<Ops> in;
    in.local_v = ops.columns(xbc, 0, g);
    in.local_k = ops.columns(xbc, g, g);
    in.q = ops.columns(xbc, 2 * g, e);
    in.local_q = ops.scale(in.q, std::sqrt(double(s.head_dim)));  // attention divides by sqrt(d) itself
    if (s.qk_norm) {
      in.local_q = ops.rms_norm_heads(in.local_q, w[kQueryNorm], s.heads, s.norm_eps);
      in.local_k = ops.rms_norm_heads(in.local_k, w[kKeyNorm], s.kv_heads, s.norm_eps);
      in.q = ops.scale(in.local_q, 1.0 / std::sqrt(double(s.head_dim)));
    }
    in.q = qkv::rotated(ops, c.rope, in.q, s.heads);
    in.k = expand(ops.leaving(qkv::rotated(ops, c.rope, in.local_k, s.kv_heads)));
    in.v = expand(ops.leaving(in.local_v));
    in.log_decay = ops.leaving(ops.log_sigmoid(ops.neg(ops.linear(u, w[kDecay], w[kDecayBias]))));
    in.skip = w[kSkip];
    in.gate = ops.linear(u, w[kGate]);
    return in;
  }

  template <class Ops>
  static typename Ops::Tensor readout(Ops& ops, const Config&, const PartShape&, Weights<Ops> w,
                                      const RecurrenceInputs<Ops>& in, const typename Ops::Tensor& y) {
    return ops.mul(y, ops.silu(ops.add_row(in.gate, w[kGateBias])));
  }
};

}  // namespace retort
