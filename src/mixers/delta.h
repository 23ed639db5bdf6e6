// What the delta-rule mixers share: convolved, SiLU-activated queries, keys and values, of which queries and keys are unit vectors.
//
//   q = L2(SiLU(conv q)) / sqrt(d);   k = L2(SiLU(conv k));   v = SiLU(conv v);   L2(u) = u / sqrt(|u|^2 + 1e-6) per head
//
// With `rope` q and k are rotated last.
// With conv_size 0 there is neither convolution nor SiLU: what the teacher projects, as unit vectors. Layer: mixers.
#pragma once

#include "mixers/qkv.h"

namespace retort::delta {

// After the projections' entries.
enum Weight : int { kConv = qkv::kCount, kBeta = kConv + qkv::kConvCount, kCount };

inline std::vector<TensorSpec> tensors(int conv_size, const PartShape& s) {
  auto table = qkv::tensors(s);
  qkv::add_convs(table, conv_size, s);
  table.push_back({"b_proj.weight", {s.kv_heads, s.width}, Precision::kF32, TrainGroup::kGate, {InitBlock::normal(0.02)}, HeadAxis::kKvRows});
  return table;
}

// S_t = e^l S_{t-1} + beta k (v - e^l S_{t-1}^T k)^T, with l = 0 for Decay::kNone.
inline RecurrenceSpec recurrence(Decay decay, const PartShape& s) {
  RecurrenceSpec spec{decay, s.heads, s.kv_heads, s.head_dim, s.head_dim};
  spec.transition = Transition::kDelta;
  return spec;
}

// u / sqrt(|u|^2 + 1e-6) of each of n heads of width d, times `factor`.
template <class Ops>
typename Ops::Tensor unit_heads(Ops& ops, const typename Ops::Tensor& x, int n, int d, double factor = 1) {
  return ops.scale(ops.rms_norm_heads(x, {}, n, 1e-6 / d), factor / std::sqrt(double(d)));
}

// How much of what a key held is replaced: up to 1, or up to 2 where the state may change sign along a key.
template <class Ops>
typename Ops::Tensor beta(Ops& ops, int allow_neg_eigval, Weights<Ops> w, const typename Ops::Tensor& x) {
  return ops.scale(ops.sigmoid(ops.leaving(ops.linear(x, w[kBeta]))), allow_neg_eigval ? 2 : 1);
}

// q, v and the window's inputs, with the unit keys left in k.
template <class Ops>
RecurrenceInputs<Ops> inputs(Ops& ops, int rope, const PartShape& s, Weights<Ops> w, const typename Ops::Tensor& x) {
  const auto p = qkv::project(ops, s, w, x);
  RecurrenceInputs<Ops> in;
  qkv::set_local(in, p);
  const auto convolved = [&](const typename Ops::Tensor& t, int which) { return qkv::convolved(ops, t, w[kConv + which]); };
  const auto q = unit_heads(ops, convolved(p.q, qkv::kQConv), s.heads, s.head_dim, s.score_scale());
  const auto k = unit_heads(ops, convolved(p.k, qkv::kKConv), s.kv_heads, s.head_dim);
  in.q = qkv::rotated(ops, rope, q, s.heads);
  in.k = ops.leaving(qkv::rotated(ops, rope, k, s.kv_heads));
  in.v = ops.leaving(convolved(p.v, qkv::kVConv));
  return in;
}

}  // namespace retort::delta
