// RetNet (mixers.md 3.5): a fixed decay per query head, slower from head to head.
//
//   gamma_h = 1 - 2^(-5-h), h = 0, 1, .., or with `bounded` 1 - 2^(-5 - 4 h/(H-1));   S_t = gamma_h S_{t-1} + k v^T;   y = S^T q / sqrt(d)
//   out = W_o( RMS_head(y) o SiLU(W_g x) )
//
// q and k are rotated by the teacher's rope (field `rope`). Queries, keys and values start as the teacher's; every query head has a
// state of its own, since decays differ within a group. Layer: mixers.
#pragma once

#include <cmath>

#include "mixers/qkv.h"

namespace retort {

struct Retnet {
  static constexpr const char* kName = "retnet";
  static constexpr const char* kSummary = "retention: a fixed decay per head, from fast to slow";
  static constexpr bool kRecurrent = true;
  static constexpr bool kNeedsWindow = false;
  struct Config {
    int rope = 1;
    int bounded = 0;  // 1: decays from 1/32 to 1/512, however many heads there are
    template <class V>
    void visit(V&& v) {
      v("rope", rope, 0, 1);
      v("bounded", bounded, 0, 1);
    }
  };
  enum Weight : int { kOutput = qkv::kO, kGate = qkv::kCount, kNorm, kWeightCount };

  static std::vector<TensorSpec> tensors(const Config&, const PartShape& s) {
    auto table = qkv::tensors(s);
    table.push_back(qkv::silu_gate(s));
    table.push_back(qkv::head_norm("g_norm.weight", s));
    return table;
  }

  static RecurrenceSpec recurrence(const Config&, const PartShape& s) {
    return {Decay::kScalar, s.heads, s.heads, s.head_dim, s.head_dim};
  }

  template <class Ops>
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config& c, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& x) {
    const auto p = qkv::project(ops, s, w, x);
    RecurrenceInputs<Ops> in;
    qkv::set_local(in, p);
    in.q = ops.scale(qkv::rotated(ops, c.rope, p.q, s.heads), s.score_scale());
    in.k = qkv::for_query_heads(ops, s, ops.leaving(qkv::rotated(ops, c.rope, p.k, s.kv_heads)));
    in.v = qkv::for_query_heads(ops, s, ops.leaving(p.v));
    std::vector<double> log_gamma;
    const int heads = s.layer_heads > 0 ? s.layer_heads : s.heads;
    const double step = c.bounded == 0 ? 1 : heads > 1 ? 4.0 / (heads - 1) : 0;
    for (int h = 0; h < s.heads; ++h) log_gamma.push_back(std::log1p(-std::exp2(-5 - step * s.layer_head(h))));
    in.log_decay = ops.same_row(x, log_gamma);  // of any token: nothing to delay
    in.gate = ops.linear(x, w[kGate]);
    return in;
  }

  template <class Ops>
  static typename Ops::Tensor readout(Ops& ops, const Config&, const PartShape& s, Weights<Ops> w,
                                      const RecurrenceInputs<Ops>& in, const typename Ops::Tensor& y) {
    return qkv::gated_norm(ops, s, y, w[kNorm], in.gate);
  }
};

}  // namespace retort
