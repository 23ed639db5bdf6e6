// Mamba-2 (mixers.md 3.6) with one group per head, as Mamba in the Llama starts it from attention: x, B and C take the teacher's values,
// keys and queries.
//
//   [z, x, B, C, dt] = W_in u;   x, B, C = SiLU(norm(conv(x, B, C)));   D_t = softplus(dt + dt_bias);   l = -e^A_log D_t
//   S_t = e^l S_{t-1} + D_t B x^T;   y = S^T C + D x;   out = W_out RMS_head( y o SiLU(z) )
//
// B and x are the teacher's, repeated per query head, and C takes the 1/sqrt(d) of attention. A joined part has no skip, as its window
// already has the current token, and its norm is the teacher's of queries and keys, where it has them (Qwen3), on C and B. A part alone has
// no norm there, as Mamba-2 elsewhere. Layer: mixers.
#pragma once

#include <cmath>

#include "mixers/mixer.h"

namespace retort {

struct Mamba2 {
  static constexpr const char* kName = "mamba2";
  static constexpr const char* kSummary = "Mamba-2: a step size per head, short convolution, skip, gated norm";
  static constexpr bool kRecurrent = true;
  static constexpr bool kNeedsWindow = false;
  struct Config {
    int conv_size = 4;
    double retention = 0.999;  // at the start, of the head with e^A_log = 1; the last has 16 times its decay
    template <class V>
    void visit(V&& v) {
      v("conv_size", conv_size, 1, 64);
      v("retention", retention, 0.5, 1.0 - 1e-6);
    }
  };
  enum Weight : int { kIn, kConv, kConvBias, kStepBias, kRate, kSkip, kNorm, kOutput, kQueryNorm, kKeyNorm, kWeightCount };

  static std::vector<TensorSpec> tensors(const Config& c, const PartShape& s) {
    const int64_t e = int64_t(s.heads) * s.head_dim, h = s.heads;
    const bool joined = s.window.size > 0;
    const std::vector<int64_t> normed = s.qk_norm && joined ? std::vector<int64_t>{s.head_dim} : std::vector<int64_t>{};
    const double step = -std::log(c.retention), unscaled = 1.0 / std::sqrt(double(s.head_dim));
    using enum TeacherSource;
    using B = InitBlock;
    constexpr auto kGates = TrainGroup::kGate;
    constexpr auto kByHead = HeadAxis::kQueryRows, kBlocksByHead = HeadAxis::kQueryRowsOfBlocks;
    return {
        {"in_proj.weight", {4 * e + h, s.width}, Precision::kQuantised, TrainGroup::kProjection,
         {B::normal(0.02, e), B::teacher(kValueExpanded, e), B::teacher(kKeyExpanded, e), B::teacher(kQuery, e, unscaled), B::constant(0, h)},
         kBlocksByHead},
        {"conv1d.weight", {3 * e, c.conv_size}, Precision::kF32, TrainGroup::kFeature,
         {B::identity_conv(e), B::identity_conv(e), B::identity_conv(e)}, kBlocksByHead},
        // Behind an identity it is the teacher's bias.
        {"conv1d.bias", {3 * e}, Precision::kF32, TrainGroup::kFeature,
         {B::teacher_bias(kValueExpanded, e), B::teacher_bias(kKeyExpanded, e), B::teacher_bias(kQuery, e, unscaled)}, kBlocksByHead},
        {"dt_bias", {h}, Precision::kF32, kGates, {B::constant(std::log(std::expm1(step)))}, kByHead},
        {"A_log", {h}, Precision::kF32, kGates, {B::linspace(0, std::log(16.0))}, kByHead},
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
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config&, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& u) {
    const int e = s.heads * s.head_dim;
    const auto p = ops.linear(u, w[kIn]);
    const auto conv = ops.short_conv(ops.columns(p, e, 3 * e), w[kConv], w[kConvBias]);
    const auto log_open = ops.log_sigmoid(ops.neg(ops.add_row(ops.columns(p, 4 * e, s.heads), w[kStepBias])));  // minus the step size
    RecurrenceInputs<Ops> in;
    in.local_v = ops.columns(conv, 0, e);
    in.local_k = ops.columns(conv, e, e);
    auto c = ops.columns(conv, 2 * e, e);
    in.local_q = ops.scale(c, std::sqrt(double(s.head_dim)));  // attention divides by sqrt(d) itself
    if (w[kQueryNorm]) {
      in.local_q = ops.rms_norm_heads(in.local_q, w[kQueryNorm], s.heads, s.norm_eps);
      in.local_k = ops.rms_norm_heads(in.local_k, w[kKeyNorm], s.heads, s.norm_eps);
      c = ops.scale(in.local_q, 1.0 / std::sqrt(double(s.head_dim)));
    }
    in.q = ops.silu(c);
    in.k = ops.leaving(ops.mul_heads(ops.silu(in.local_k), ops.neg(log_open), s.heads));
    in.v = ops.leaving(ops.silu(in.local_v));
    in.log_decay = ops.leaving(ops.mul_exp_row(log_open, w[kRate]));
    in.skip = w[kSkip];
    in.gate = ops.columns(p, 0, e);
    return in;
  }

  template <class Ops>
  static typename Ops::Tensor readout(Ops& ops, const Config&, const PartShape& s, Weights<Ops> w,
                                      const RecurrenceInputs<Ops>& in, const typename Ops::Tensor& y) {
    return ops.rms_norm_heads(ops.mul(y, ops.silu(in.gate)), w[kNorm], s.heads, s.norm_eps);
  }
};

}  // namespace retort
