// The projections that every attention-born mixer shares: q, k, v, o, their biases (Qwen2) and the q/k norms (Qwen3).
//
// Layer: mixers.
#pragma once

#include <cmath>
#include <vector>

#include "mixers/mixer.h"

namespace retort::qkv {

// The first entries of a mixer's Weight enum, in this order.
enum Weight : int { kQ, kK, kV, kO, kQBias, kKBias, kVBias, kQNorm, kKNorm, kCount };

inline std::vector<TensorSpec> tensors(const PartShape& s) {
  const int64_t q = int64_t(s.heads) * s.head_dim, kv = int64_t(s.kv_heads) * s.head_dim;
  const auto bias = [&](int64_t n) { return s.qkv_bias ? std::vector<int64_t>{n} : std::vector<int64_t>{}; };
  const auto norm = [&] { return s.qk_norm ? std::vector<int64_t>{s.head_dim} : std::vector<int64_t>{}; };
  using enum TeacherSource;
  using B = InitBlock;
  constexpr auto kP = TrainGroup::kProjection;
  return {
      {"q_proj.weight", {q, s.width}, Precision::kQuantised, kP, {B::teacher(kQuery)}, HeadAxis::kQueryRows},
      {"k_proj.weight", {kv, s.width}, Precision::kQuantised, kP, {B::teacher(kKey)}, HeadAxis::kKvRows},
      {"v_proj.weight", {kv, s.width}, Precision::kQuantised, kP, {B::teacher(kValue)}, HeadAxis::kKvRows},
      {"o_proj.weight", {s.width, q}, Precision::kQuantised, kP, {B::teacher(kOutput)}, HeadAxis::kQueryColumns},
      {"q_proj.bias", bias(q), Precision::kF32, kP, {B::teacher_bias(kQuery)}, HeadAxis::kQueryRows},
      {"k_proj.bias", bias(kv), Precision::kF32, kP, {B::teacher_bias(kKey)}, HeadAxis::kKvRows},
      {"v_proj.bias", bias(kv), Precision::kF32, kP, {B::teacher_bias(kValue)}, HeadAxis::kKvRows},
      {"q_norm.weight", norm(), Precision::kF32, kP, {B::teacher(kQueryNorm)}},
      {"k_norm.weight", norm(), Precision::kF32, kP, {B::teacher(kKeyNorm)}},
  };
}

// For mixers whose recurrence has keys of its own: attention's are kept only for the window of a joined part.
inline void keep_keys_for_window_only(std::vector<TensorSpec>& table, const PartShape& s) {
  if (s.window.size > 0) return;
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

// The teacher's rotation, as a mixer's field `rope` asks.
template <class Ops>
typename Ops::Tensor rotated(Ops& ops, int rope, const typename Ops::Tensor& x, int heads) {
  return rope ? ops.rope(x, heads) : x;
}

}  // namespace retort::qkv
