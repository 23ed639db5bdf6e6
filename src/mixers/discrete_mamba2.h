// Discrete Mamba-2 (mixers.md 3.12), the student of Llamba / MOHAWK: no step size, a decay per head projected from the token,
// a short convolution without activation, a skip and a gate that both start as the identity.
//
//   x, B, C = norm(conv(W_in u));   z = W_z u;   a = W_a u (+ b_a)
//   l = log_sigmoid(-a);   S_t = e^l S_{t-1} + B x^T;   y = S^T C + D x;   out = W_out( y o SiLU(z + z_bias) )
//
// x, B, C and where they start: mixers/xbc.h. With `rope` B and C are rotated last. W_a starts at 0, so a state keeps a half of itself a token;
// another `retention` gives a the bias that does so. Layer: mixers.
#pragma once

#include "mixers/gate_start.h"
#include "mixers/xbc.h"

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
    const int64_t e = s.query_rows(), h = s.heads;
    using B = InitBlock;
    return {
        xbc::in_proj(s),
        {"in_proj_z.weight", {e, s.width}, Precision::kQuantised, TrainGroup::kFeature, {B::constant(0)}, HeadAxis::kQueryRows},
        {"a_proj.weight", {h, s.width}, Precision::kF32, TrainGroup::kGate, {B::constant(0)}, HeadAxis::kQueryRows},
        xbc::conv(c.conv_size, s),
        xbc::conv_bias(s),
        xbc::skip(s),
        {"z_bias", {e}, Precision::kF32, TrainGroup::kGate, {B::constant(kSiluIsOne)}, HeadAxis::kQueryRows},
        xbc::out_proj(s),
        qkv::query_norm(s),
        qkv::key_norm(s),
        {"a_proj.bias", shape_if(c.retention != 0.5, {h}), Precision::kF32, TrainGroup::kGate, {B::constant(-logit(c.retention))}, HeadAxis::kQueryRows},
    };
  }

  static RecurrenceSpec recurrence(const Config&, const PartShape& s) {
    return {Decay::kScalar, s.heads, s.heads, s.head_dim, s.head_dim};
  }

  template <class Ops>
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config& c, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& u) {
    RecurrenceInputs<Ops> in;
    in.q = qkv::rotated(ops, c.rope, xbc::project<DiscreteMamba2>(ops, s, w, in, u), s.heads);
    in.k = qkv::for_query_heads(ops, s, ops.leaving(qkv::rotated(ops, c.rope, in.local_k, s.kv_heads)));
    in.v = qkv::for_query_heads(ops, s, ops.leaving(in.local_v));
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
