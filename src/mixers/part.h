// One part of a layer, whole: projections, exact window, recurrence, join, output projection. The only place where the
// pieces of a mixer meet; every backend runs this text.
//
// Layer: mixers.
//
// Joining a recurrence with an exact window (part.window.size > 0): the recurrence takes the tokens that leave the window.
//   Normaliser::kSum:  one normaliser. The far side weighs log F = W_g x + b_g + gamma log_norm - (rho - 1) log_norm_window
//   other mixers:      y = window + sigmoid(W_g x + b_g) o readout(recurrence), per head
#pragma once

#include "mixers/mixer.h"

namespace retort {

// Tensors that a joined part has after its mixer's own.
namespace join {
enum Weight : int { kGateWeight, kGateBias, kGamma, kRho, kCount };
inline constexpr double kGateStart = -2.0;  // sigmoid(-2) = 0.12: an untrained recurrence whispers

inline std::vector<TensorSpec> tensors(const PartShape& s, bool one_normaliser) {
  const Shape per_head = shape_if(one_normaliser, {s.heads});
  using B = InitBlock;
  constexpr auto kGates = TrainGroup::kGate;
  return {
      {"join.gate.weight", {s.heads, s.width}, Precision::kF32, kGates, {B::constant(0)}, HeadAxis::kQueryRows},
      {"join.gate.bias", {s.heads}, Precision::kF32, kGates, {B::constant(one_normaliser ? 0.0 : kGateStart)}, HeadAxis::kQueryRows},
      {"join.gamma", per_head, Precision::kF32, kGates, {B::constant(1)}, HeadAxis::kQueryRows},
      {"join.rho", per_head, Precision::kF32, kGates, {B::constant(1)}, HeadAxis::kQueryRows},
  };
}
}  // namespace join

// The mixer's recurrence with what the window changes about it.
template <class Mixer>
RecurrenceSpec part_recurrence(const typename Mixer::Config& c, const PartShape& s) {
  RecurrenceSpec spec = Mixer::recurrence(c, s);
  if (s.joined()) spec.first_position = s.window.size + s.window.sinks;
  return spec;
}

// All tensors of a part: the mixer's, then the join's.
template <class Mixer>
std::vector<TensorSpec> part_tensor_table(const typename Mixer::Config& c, const PartShape& s) {
  auto table = Mixer::tensors(c, s);
  if constexpr (Mixer::kRecurrent) {
    if (s.joined()) {
      for (auto& t : join::tensors(s, Mixer::recurrence(c, s).joins())) table.push_back(std::move(t));
    }
  }
  return table;
}

template <class Ops>
Normalised<typename Ops::Tensor> local_attention(Ops& ops, const PartShape& s, const RecurrenceInputs<Ops>& in) {
  return ops.attention(ops.rope(in.local_q, s.heads), ops.rope(in.local_k, s.kv_heads), in.local_v, s.heads, s.kv_heads, s.window);
}

// The part's heads' outputs before the output projection. [T, H*V]
template <class Mixer, class Ops>
typename Ops::Tensor part_mix(Ops& ops, const typename Mixer::Config& c, const PartShape& s, Weights<Ops> w,
                              const typename Ops::Tensor& x) {
  const RecurrenceInputs<Ops> in = Mixer::template inputs<Ops>(ops, c, s, w, x);
  if constexpr (!Mixer::kRecurrent) {
    return local_attention(ops, s, in).out;
  } else {
    const RecurrenceSpec spec = part_recurrence<Mixer>(c, s);
    if (!s.joined()) {
      return Mixer::template readout<Ops>(ops, c, s, w, in, ops.recurrence(spec, in).out);
    }
    auto local = local_attention(ops, s, in);
    auto far = ops.recurrence(spec, in);
    Weights<Ops> j = w + Mixer::kWeightCount;
    auto gate = ops.linear(x, j[join::kGateWeight], j[join::kGateBias]);
    if (spec.joins()) {
      auto window_share = ops.add(local.log_norm, ops.neg(ops.mul_row(local.log_norm, j[join::kRho])));
      far.log_norm = ops.add(ops.add(gate, ops.mul_row(far.log_norm, j[join::kGamma])), window_share);
      return Mixer::template readout<Ops>(ops, c, s, w, in, ops.join(local, far, s.heads));
    }
    auto y = Mixer::template readout<Ops>(ops, c, s, w, in, far.out);
    return ops.add(local.out, ops.mul_heads(y, ops.sigmoid(gate), s.heads));
  }
}

// The part's share of the layer's output. [T, D]
template <class Mixer, class Ops>
typename Ops::Tensor part_forward(Ops& ops, const typename Mixer::Config& c, const PartShape& s, Weights<Ops> w,
                                  const typename Ops::Tensor& x) {
  return ops.linear(part_mix<Mixer>(ops, c, s, w, x), w[Mixer::kOutput]);
}

}  // namespace retort
