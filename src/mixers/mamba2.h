// Mamba-2 (mixers.md 3.6) as Mamba in the Llama starts it from attention: x, B and C take the teacher's values, keys and queries.
//
//   x, B, C = SiLU(norm(conv(W_in u)));   z = W_z u;   D_t = softplus(W_dt u + dt_bias);   l = -e^A_log D_t
//   S_t = e^l S_{t-1} + D_t B x^T;   y = S^T C + D x;   out = W_out RMS_head( y o SiLU(z) )
//
// x, B, C and where they start: mixers/xbc.h. With `rope` B and C are rotated last. Layer: mixers.
#pragma once

#include <cmath>

#include "mixers/gate_start.h"
#include "mixers/xbc.h"

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
    const int64_t e = s.query_rows(), h = s.heads;
    const double slowest = std::log(-std::log(c.retention) / c.step);
    using B = InitBlock;
    constexpr auto kGates = TrainGroup::kGate;
    constexpr auto kByHead = HeadAxis::kQueryRows;
    return {
        xbc::in_proj(s),
        {"in_proj_z.weight", {e, s.width}, Precision::kQuantised, TrainGroup::kFeature, {B::normal(0.02)}, kByHead},
        {"dt_proj.weight", {h, s.width}, Precision::kF32, kGates, {B::constant(0)}, kByHead},
        xbc::conv(c.conv_size, s),
        xbc::conv_bias(s),
        {"dt_bias", {h}, Precision::kF32, kGates, {B::constant(inverse_softplus(c.step))}, kByHead},
        {"A_log", {h}, Precision::kF32, kGates, {B::linspace(slowest, slowest + std::log(16.0))}, kByHead},
        xbc::skip(s),
        {"norm.weight", {e}, Precision::kF32, TrainGroup::kFeature, {B::head_rms(1)}, kByHead},
        xbc::out_proj(s),
        qkv::query_norm(s),
        qkv::key_norm(s),
    };
  }

  static RecurrenceSpec recurrence(const Config&, const PartShape& s) {
    return {Decay::kScalar, s.heads, s.heads, s.head_dim, s.head_dim};
  }

  template <class Ops>
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config& c, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& u) {
    RecurrenceInputs<Ops> in;
    const auto q = xbc::project<Mamba2>(ops, s, w, in, u);
    // Minus the step size of the token that leaves the window.
    const auto log_open = ops.leaving(ops.log_sigmoid(ops.neg(ops.linear(u, w[kStep], w[kStepBias]))));
    in.q = qkv::rotated(ops, c.rope, ops.silu(q), s.heads);
    const auto k = ops.leaving(qkv::rotated(ops, c.rope, ops.silu(in.local_k), s.kv_heads));
    in.k = ops.mul_heads(qkv::for_query_heads(ops, s, k), ops.neg(log_open), s.heads);
    in.v = qkv::for_query_heads(ops, s, ops.leaving(ops.silu(in.local_v)));
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
