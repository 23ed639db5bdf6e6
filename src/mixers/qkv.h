// The projections that every attention-born mixer shares: q, k, v, o, their biases (Qwen2) and the q/k norms (Qwen3).
//
// Layer: mixers.
#pragma once

#include <vector>

#include "mixers/mixer.h"

namespace retort::qkv {

// The first entries of a mixer's Weight enum, in this order.
enum Weight : int { kQ, kK, kV, kO, kQBias, kKBias, kVBias, kQNorm, kKNorm, kCount };

inline TensorSpec query_norm(const PartShape& s) {
  return {"q_norm.weight", shape_if(s.qk_norm, {s.head_dim}), Precision::kF32, TrainGroup::kProjection, {InitBlock::teacher(TeacherSource::kQueryNorm)}};
}
inline TensorSpec key_norm(const PartShape& s) {
  return {"k_norm.weight", shape_if(s.qk_norm, {s.head_dim}), Precision::kF32, TrainGroup::kProjection, {InitBlock::teacher(TeacherSource::kKeyNorm)}};
}

inline std::vector<TensorSpec> tensors(const PartShape& s) {
  const int64_t q = s.query_rows(), kv = s.kv_rows();
  using enum TeacherSource;
  using B = InitBlock;
  constexpr auto kP = TrainGroup::kProjection;
  return {
      {"q_proj.weight", {q, s.width}, Precision::kQuantised, kP, {B::teacher(kQuery)}, HeadAxis::kQueryRows},
      {"k_proj.weight", {kv, s.width}, Precision::kQuantised, kP, {B::teacher(kKey)}, HeadAxis::kKvRows},
      {"v_proj.weight", {kv, s.width}, Precision::kQuantised, kP, {B::teacher(kValue)}, HeadAxis::kKvRows},
      {"o_proj.weight", {s.width, q}, Precision::kQuantised, kP, {B::teacher(kOutput)}, HeadAxis::kQueryColumns},
      {"q_proj.bias", shape_if(s.qkv_bias, {q}), Precision::kF32, kP, {B::teacher_bias(kQuery)}, HeadAxis::kQueryRows},
      {"k_proj.bias", shape_if(s.qkv_bias, {kv}), Precision::kF32, kP, {B::teacher_bias(kKey)}, HeadAxis::kKvRows},
      {"v_proj.bias", shape_if(s.qkv_bias, {kv}), Precision::kF32, kP, {B::teacher_bias(kValue)}, HeadAxis::kKvRows},
      query_norm(s),
      key_norm(s),
  };
}

// For mixers whose recurrence has keys of its own: attention's are kept only for the window of a joined part.
inline void keep_keys_for_window_only(std::vector<TensorSpec>& table, const PartShape& s) {
  if (s.joined()) return;
  for (int weight : {kK, kKBias, kKNorm}) table[size_t(weight)].shape.clear();
}

template <class Tensor>
struct Projected {
  Tensor q, k, v;  // [T, H*d], [T, G*d] or unset without a key projection, [T, G*d]; before rope
};

template <class Ops>
Projected<typename Ops::Tensor> project(Ops& ops, const PartShape& s, Weights<Ops> w, const typename Ops::Tensor& x) {
  Projected<typename Ops::Tensor> p;
  p.q = ops.linear(x, w[kQ], w[kQBias]);
  if (w[kK]) p.k = ops.linear(x, w[kK], w[kKBias]);
  p.v = ops.linear(x, w[kV], w[kVBias]);
  if (s.qk_norm) {
    p.q = ops.rms_norm_heads(p.q, w[kQNorm], s.heads, s.norm_eps);
    if (p.k) p.k = ops.rms_norm_heads(p.k, w[kKNorm], s.kv_heads, s.norm_eps);
  }
  return p;
}

// What the exact window uses.
template <class Ops>
void set_local(RecurrenceInputs<Ops>& in, const Projected<typename Ops::Tensor>& p) {
  in.local_q = p.q, in.local_k = p.k, in.local_v = p.v;
}

// The same of a mixer whose queries have attention's factor in their weights: `q`, and in.local_k before its norm. Returns its queries.
template <class Ops>
typename Ops::Tensor set_local_scaled(Ops& ops, const PartShape& s, RecurrenceInputs<Ops>& in, const typename Ops::Tensor& q,
                                      const typename Ops::Weight& query_norm, const typename Ops::Weight& key_norm) {
  in.local_q = ops.scale(q, 1 / s.score_scale());  // attention has that factor itself
  if (!s.qk_norm) return q;
  in.local_q = ops.rms_norm_heads(in.local_q, query_norm, s.heads, s.norm_eps);
  in.local_k = ops.rms_norm_heads(in.local_k, key_norm, s.kv_heads, s.norm_eps);
  return ops.scale(in.local_q, s.score_scale());
}

// What every kv head has, once for each query head of its group: for mixers with a state for every query head.
template <class Ops>
typename Ops::Tensor for_query_heads(Ops& ops, const PartShape& s, const typename Ops::Tensor& x) {
  return ops.repeat_heads(x, s.kv_heads, s.group());
}

// Short convolutions of q, k and v, last in a mixer's table; conv_size 0: none.
enum Conv : int { kQConv, kKConv, kVConv };
inline constexpr int kConvCount = 3;

inline void add_convs(std::vector<TensorSpec>& table, int conv_size, const PartShape& s) {
  const auto add = [&](const char* name, int64_t channels, HeadAxis axis) {
    table.push_back({name, shape_if(conv_size > 0, {channels, conv_size}), Precision::kF32, TrainGroup::kFeature, {InitBlock::identity_conv()}, axis});
  };
  add("q_conv1d.weight", s.query_rows(), HeadAxis::kQueryRows);
  add("k_conv1d.weight", s.kv_rows(), HeadAxis::kKvRows);
  add("v_conv1d.weight", s.kv_rows(), HeadAxis::kKvRows);
}

// SiLU(conv(x)); x itself without a convolution.
template <class Ops>
typename Ops::Tensor convolved(Ops& ops, const typename Ops::Tensor& x, const typename Ops::Weight& conv) {
  return conv ? ops.silu(ops.short_conv(x, conv, {})) : x;
}

template <class Ops>
typename Ops::Tensor layer_norm_heads(Ops& ops, const typename Ops::Tensor& x, const typename Ops::Weight& w, int heads, double eps) {
  return ops.rms_norm_heads(ops.center_heads(x, heads), w, heads, eps);
}

// RMS_head(y) o SiLU(gate), the readout of most: the gate's projection and the norm's weight.
inline TensorSpec silu_gate(const PartShape& s) {
  return {"g_proj.weight", {s.query_rows(), s.width}, Precision::kQuantised, TrainGroup::kFeature, {InitBlock::normal(0.02)}, HeadAxis::kQueryRows};
}
inline TensorSpec head_norm(const char* name, const PartShape& s) {
  return {name, {s.head_dim}, Precision::kF32, TrainGroup::kFeature, {InitBlock::head_rms(1)}};
}
template <class Ops>
typename Ops::Tensor gated_norm(Ops& ops, const PartShape& s, const typename Ops::Tensor& y, const typename Ops::Weight& norm,
                                const typename Ops::Tensor& gate) {
  return ops.mul(ops.rms_norm_heads(y, norm, s.heads, s.norm_eps), ops.silu(gate));
}

// The teacher's rotation, as a mixer's field `rope` asks.
template <class Ops>
typename Ops::Tensor rotated(Ops& ops, int rope, const typename Ops::Tensor& x, int heads) {
  return rope ? ops.rope(x, heads) : x;
}

}  // namespace retort::qkv
