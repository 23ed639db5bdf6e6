// S6, the mixer of Mamba-1, as in The Mamba in the Llama (mixers.md 3.11): every channel has a step size computed from the token and
// a decay of its own for each of its state's cells.
//
//   x = SiLU(conv(W_x u));   B = norm(W_B u);   C = norm(W_C u);   Delta = softplus(W_dt W_down u + b);   A = -exp(A_log)
//   h_c <- exp(Delta_c A_c) o h_c + Delta_c x_c B;   y_c = C . h_c + D_c x_c;   out = W_out( y o SiLU(W_z u) )
//
// x, B and C start as the teacher's values, keys and queries; the 1/sqrt(d) of attention is in C. x and B are as many heads as the
// teacher's keys, repeated per query head (x before the convolution). Biases of x, B and C (Qwen2) and norms of B and C (Qwen3) are the
// teacher's, where it has them. State: head_dim cells a channel. Layer: mixers.
#pragma once

#include <cmath>

#include "mixers/gate_start.h"
#include "mixers/qkv.h"

namespace retort {

struct Mamba {
  static constexpr const char* kName = "mamba";
  static constexpr const char* kSummary = "Mamba-1's selective scan as in The Mamba in the Llama: a decay per state cell and channel";
  static constexpr bool kRecurrent = true;
  static constexpr bool kNeedsWindow = false;
  struct Config {
    int conv_size = 4;
    int dt_rank = 0;        // of the step's projection; 0: a sixteenth of the width, rounded up
    double dt_min = 0.001;  // steps at the start, spread evenly in the logarithm over a head's channels; the slowest cell of a
    double dt_max = 0.1;    // channel keeps exp(-dt) a token, so smaller steps remember longer
    double a_last = 0;      // A of a channel's last cell at the start, its first has 1; 0: as many as the cells, A = 1, 2, 3, ..
    int rope = 0;           // 1: the teacher's rope on B and C
    template <class V>
    void visit(V&& v) {
      v("conv_size", conv_size, 1, 64);
      v("dt_rank", dt_rank, 0, 4096);
      v("dt_min", dt_min, 1e-6, 10.0);
      v("dt_max", dt_max, 1e-6, 10.0);
      v("a_last", a_last, 0.0, 1e4);
      v("rope", rope, 0, 1);
    }
    Status check() const {
      if (dt_min > dt_max) return invalid("'dt_min' is ", dt_min, ", more than 'dt_max', ", dt_max);
      if (a_last != 0 && a_last < 1) return invalid("'a_last' is ", a_last, "; expected 0, or 1 and more: the first cell is the slowest");
      return {};
    }
  };
  enum Weight : int {
    kX, kB, kC, kZ, kStepDown, kStepUp, kStepBias, kConv, kConvBias, kRate, kSkip, kOutput, kXBias, kBBias, kCBias, kQueryNorm, kKeyNorm,
    kWeightCount
  };

  static std::vector<TensorSpec> tensors(const Config& c, const PartShape& s) {
    const int64_t d = s.head_dim, e = s.query_rows(), grouped = s.kv_rows();
    const int64_t rank = c.dt_rank > 0 ? c.dt_rank : (s.width + 15) / 16;
    using enum TeacherSource;
    using B = InitBlock;
    using enum TrainGroup;
    std::vector<B> step_bias;
    for (int h = 0; h < s.heads; ++h) step_bias.push_back(B::linspace(inverse_softplus(c.dt_min), inverse_softplus(c.dt_max), d));
    return {
        {"in_proj_x.weight", {grouped, s.width}, Precision::kQuantised, kProjection, {B::teacher(kValue)}, HeadAxis::kKvRows},
        {"B_proj.weight", {grouped, s.width}, Precision::kQuantised, kProjection, {B::teacher(kKey)}, HeadAxis::kKvRows},
        {"C_proj.weight", {e, s.width}, Precision::kQuantised, kProjection, {B::teacher(kQuery, 0, s.score_scale())},
         HeadAxis::kQueryRows},
        {"in_proj_z.weight", {e, s.width}, Precision::kQuantised, kFeature, {B::normal(0.02)}, HeadAxis::kQueryRows},
        // The standard deviations of U(-n^-1/2, n^-1/2).
        {"dt_proj_down.weight", {rank, s.width}, Precision::kF32, kGate, {B::normal(1.0 / std::sqrt(3.0 * s.width))}},
        {"dt_proj.weight", {e, rank}, Precision::kF32, kGate, {B::normal(1.0 / std::sqrt(3.0 * double(rank)))}, HeadAxis::kQueryRows},
        {"dt_proj.bias", {e}, Precision::kF32, kGate, step_bias, HeadAxis::kQueryRows},
        {"conv1d.weight", {e, c.conv_size}, Precision::kF32, kFeature, {B::identity_conv()}, HeadAxis::kQueryRows},
        {"conv1d.bias", {e}, Precision::kF32, kFeature, {B::constant(0)}, HeadAxis::kQueryRows},
        {"A_log", {e, d}, Precision::kF32, kGate, {B::log_count(c.a_last > 0 ? c.a_last : double(d))}, HeadAxis::kQueryRows},
        // A window already has the current token.
        {"D", shape_if(!s.joined(), {e}), Precision::kF32, kGate, {B::constant(1)}, HeadAxis::kQueryRows},
        {"out_proj.weight", {s.width, e}, Precision::kQuantised, kProjection, {B::teacher(TeacherSource::kOutput)},
         HeadAxis::kQueryColumns},
        {"in_proj_x.bias", shape_if(s.qkv_bias, {grouped}), Precision::kF32, kProjection, {B::teacher_bias(kValue)}, HeadAxis::kKvRows},
        {"B_proj.bias", shape_if(s.qkv_bias, {grouped}), Precision::kF32, kProjection, {B::teacher_bias(kKey)}, HeadAxis::kKvRows},
        {"C_proj.bias", shape_if(s.qkv_bias, {e}), Precision::kF32, kProjection, {B::teacher_bias(kQuery, 0, s.score_scale())}, HeadAxis::kQueryRows},
        qkv::query_norm(s),
        qkv::key_norm(s),
    };
  }

  static RecurrenceSpec recurrence(const Config&, const PartShape& s) {
    return {Decay::kPerCell, s.heads, s.heads, s.head_dim, s.head_dim};
  }

  template <class Ops>
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config& c, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& u) {
    RecurrenceInputs<Ops> in;
    in.local_k = ops.linear(u, w[kB], w[kBBias]);
    const auto c_heads = qkv::set_local_scaled(ops, s, in, ops.linear(u, w[kC], w[kCBias]), w[kQueryNorm], w[kKeyNorm]);
    in.local_v = ops.linear(u, w[kX], w[kXBias]);
    in.bonus = ops.silu(ops.short_conv(qkv::for_query_heads(ops, s, in.local_v), w[kConv], w[kConvBias]));
    const auto step = ops.neg(ops.log_sigmoid(ops.neg(ops.linear(ops.linear(u, w[kStepDown]), w[kStepUp], w[kStepBias]))));  // softplus
    in.q = qkv::rotated(ops, c.rope, c_heads, s.heads);
    in.k = qkv::for_query_heads(ops, s, ops.leaving(qkv::rotated(ops, c.rope, in.local_k, s.kv_heads)));
    in.v = ops.leaving(ops.mul(step, in.bonus));
    in.log_decay = ops.leaving(step);
    in.decay_rate = w[kRate];
    in.gate = ops.linear(u, w[kZ]);
    return in;
  }

  template <class Ops>
  static typename Ops::Tensor readout(Ops& ops, const Config&, const PartShape&, Weights<Ops> w,
                                      const RecurrenceInputs<Ops>& in, const typename Ops::Tensor& y) {
    return ops.mul(w[kSkip] ? ops.add(y, ops.mul_row(in.bonus, w[kSkip])) : y, ops.silu(in.gate));
  }
};

}  // namespace retort
