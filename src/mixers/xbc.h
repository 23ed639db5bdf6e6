// What the Mamba-2 mixers share: x, B and C in one projection and one convolution.
//
//   [x; B; C] = conv(W_in u), B and C normed as the teacher's keys and queries, where those are (Qwen3)
//
// They start as the teacher's values, keys and queries, with attention's 1/sqrt(d) in C. x and B have as many heads as the teacher's values and
// keys and are repeated for the query heads of a group behind the convolution: steps and decays, and so states, belong to a query head. A joined
// part has no skip, as its window already has the current token. Layer: mixers.
#pragma once

#include "mixers/qkv.h"

namespace retort::xbc {

// Rows of x, of B and of C.
template <class Block, class QueryBlock>
std::vector<InitBlock> blocks(const PartShape& s, Block&& x_or_b, QueryBlock&& c) {
  using enum TeacherSource;
  return {x_or_b(kValue, s.kv_rows()).of_kv_heads(), x_or_b(kKey, s.kv_rows()).of_kv_heads(), c(kQuery, s.query_rows())};
}

inline TensorSpec in_proj(const PartShape& s) {
  return {"in_proj.weight", {2 * s.kv_rows() + s.query_rows(), s.width}, Precision::kQuantised, TrainGroup::kProjection,
          blocks(s, [](TeacherSource from, int64_t rows) { return InitBlock::teacher(from, rows); },
                 [&](TeacherSource from, int64_t rows) { return InitBlock::teacher(from, rows, s.score_scale()); }),
          HeadAxis::kRowsOfBlocks};
}
inline TensorSpec conv(int taps, const PartShape& s) {
  const auto identity = [](TeacherSource, int64_t rows) { return InitBlock::identity_conv(rows); };
  return {"conv1d.weight", {2 * s.kv_rows() + s.query_rows(), taps}, Precision::kF32, TrainGroup::kFeature, blocks(s, identity, identity),
          HeadAxis::kRowsOfBlocks};
}
// Behind an identity it is the teacher's bias.
inline TensorSpec conv_bias(const PartShape& s) {
  return {"conv1d.bias", {2 * s.kv_rows() + s.query_rows()}, Precision::kF32, TrainGroup::kProjection,
          blocks(s, [](TeacherSource from, int64_t rows) { return InitBlock::teacher_bias(from, rows); },
                 [&](TeacherSource from, int64_t rows) { return InitBlock::teacher_bias(from, rows, s.score_scale()); }),
          HeadAxis::kRowsOfBlocks};
}
inline TensorSpec skip(const PartShape& s) {
  return {"D", shape_if(!s.joined(), {s.heads}), Precision::kF32, TrainGroup::kGate, {InitBlock::constant(1)}, HeadAxis::kQueryRows};
}
inline TensorSpec out_proj(const PartShape& s) {
  return {"out_proj.weight", {s.width, s.query_rows()}, Precision::kQuantised, TrainGroup::kProjection, {InitBlock::teacher(TeacherSource::kOutput)},
          HeadAxis::kQueryColumns};
}

// The window's inputs, x in local_v and B in local_k. Returns C.
template <class Mixer, class Ops>
typename Ops::Tensor project(Ops& ops, const PartShape& s, Weights<Ops> w, RecurrenceInputs<Ops>& in, const typename Ops::Tensor& u) {
  const int e = int(s.query_rows()), g = int(s.kv_rows());
  const auto all = ops.short_conv(ops.linear(u, w[Mixer::kIn]), w[Mixer::kConv], w[Mixer::kConvBias]);
  in.local_v = ops.columns(all, 0, g);
  in.local_k = ops.columns(all, g, g);
  return qkv::set_local_scaled(ops, s, in, ops.columns(all, 2 * g, e), w[Mixer::kQueryNorm], w[Mixer::kKeyNorm]);
}

}  // namespace retort::xbc
