// What the delta-rule mixers share: convolved, SiLU-activated queries, keys and values, of which queries and keys are unit vectors.
//
//   q = L2(SiLU(conv q)) / sqrt(d);   k = L2(SiLU(conv k));   v = SiLU(conv v);   L2(u) = u / sqrt(|u|^2 + 1e-6) per head
//
// With `rope` q and k are rotated last.
// With conv_size 0 there is neither convolution nor SiLU: what the teacher projects, as unit vectors. Layer: mixers.
#pragma once

#include "mixers/qkv.h"

namespace retort::delta {

// After the projections' entries, in this order.
enum Weight : int { kQConv = qkv::kCount, kKConv, kVConv, kCount };

inline std::vector<TensorSpec> tensors(int conv_size, const PartShape& s) {
  auto table = qkv::tensors(s);
  const auto conv = [&](const char* name, int heads, HeadAxis axis) {
    const auto shape = conv_size > 0 ? std::vector<int64_t>{int64_t(heads) * s.head_dim, conv_size} : std::vector<int64_t>{};
    table.push_back({name, shape, Precision::kF32, TrainGroup::kFeature, {InitBlock::identity_conv()}, axis});
  };
  conv("q_conv1d.weight", s.heads, HeadAxis::kQueryRows);
  conv("k_conv1d.weight", s.kv_heads, HeadAxis::kKvRows);
  conv("v_conv1d.weight", s.kv_heads, HeadAxis::kKvRows);
  return table;
}

template <class Ops>
typename Ops::Tensor activated(Ops& ops, const typename Ops::Tensor& x, const typename Ops::Weight& conv) {
  return conv ? ops.silu(ops.short_conv(x, conv, {})) : x;
}

// u / sqrt(|u|^2 + 1e-6) of each of n heads of width d, times `factor`.
template <class Ops>
typename Ops::Tensor unit_heads(Ops& ops, const typename Ops::Tensor& x, int n, int d, double factor = 1) {
  return ops.scale(ops.rms_norm_heads(x, {}, n, 1e-6 / d), factor / std::sqrt(double(d)));
}

// q, v and the window's inputs, with the unit keys left in k.
template <class Ops>
RecurrenceInputs<Ops> inputs(Ops& ops, int rope, const PartShape& s, Weights<Ops> w, const typename Ops::Tensor& x) {
  const auto p = qkv::project(ops, s, w, x);
  RecurrenceInputs<Ops> in;
  qkv::set_local(in, p);
  const auto q = unit_heads(ops, activated(ops, p.q, w[kQConv]), s.heads, s.head_dim, 1 / std::sqrt(double(s.head_dim)));
  const auto k = unit_heads(ops, activated(ops, p.k, w[kKConv]), s.kv_heads, s.head_dim);
  in.q = qkv::rotated(ops, rope, q, s.heads);
  in.k = ops.leaving(qkv::rotated(ops, rope, k, s.kv_heads));
  in.v = ops.leaving(activated(ops, p.v, w[kVConv]));
  return in;
}

}  // namespace retort::delta
