// Slots: a far memory of `slots` cells per kv head without decay, read by an unnormalised exponential, under one normaliser
// with the exact window. Written softly to the nearest cells, so it starts as softmax attention over quantised keys.
//
//   write  phi_j = softmax(C_k k_j + b_k) in R^M;   S_t = S_{t-1} + phi_j [v_j ; 1]^T        no rope in the far part
//   read   r_t = exp(C_q q_t + b_q);   [n ; d] = S_t^T r_t;   y_t = n / d,  log_norm_t = log d
//
// The start (k-means over the teacher's keys) is in slots_start.h. Layer: mixers.
#pragma once

#include "mixers/qkv.h"

namespace retort {

struct Slots {
  static constexpr const char* kName = "slots";
  static constexpr const char* kSummary = "cells written by a softmax, read by an exponential, one normaliser with the window";
  static constexpr bool kRecurrent = true;
  static constexpr bool kNeedsWindow = false;
  struct Config {
    int slots = 256;  // M, cells per kv head
    template <class V>
    void visit(V&& v) {
      v("slots", slots, 1, 4096);
    }
  };
  enum Weight : int { kOutput = qkv::kO, kWriteWeight = qkv::kCount, kWriteBias, kReadWeight, kReadBias, kWeightCount };

  static std::vector<TensorSpec> tensors(const Config& c, const PartShape& s) {
    auto table = qkv::tensors(s);
    const int64_t m = c.slots, d = s.head_dim, g = s.kv_heads, h = s.heads;
    using B = InitBlock;
    table.push_back({"write.weight", {g, m, d}, Precision::kQuantised, TrainGroup::kFeature, {B::normal(1.0 / d)}, HeadAxis::kKvRows});
    table.push_back({"write.bias", {g, m}, Precision::kF32, TrainGroup::kFeature, {B::constant(0)}, HeadAxis::kKvRows});
    table.push_back({"read.weight", {h, m, d}, Precision::kQuantised, TrainGroup::kFeature, {B::normal(1.0 / d)}, HeadAxis::kQueryRows});
    table.push_back({"read.bias", {h, m}, Precision::kF32, TrainGroup::kFeature, {B::constant(0)}, HeadAxis::kQueryRows});
    return table;
  }

  static RecurrenceSpec recurrence(const Config& c, const PartShape& s) {
    return {Decay::kNone, s.heads, s.kv_heads, c.slots, s.head_dim, Normaliser::kSum};
  }

  template <class Ops>
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config&, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& x) {
    auto p = qkv::project(ops, s, w, x);
    RecurrenceInputs<Ops> in;
    in.local_q = p.q;
    in.local_k = p.k;
    in.local_v = p.v;
    auto [r, offset] = ops.exp_heads(ops.head_linear(p.q, w[kReadWeight], w[kReadBias], s.heads), s.heads);
    in.q = r;
    in.q_log_offset = offset;
    in.k = ops.softmax_heads(ops.head_linear(ops.leaving(p.k), w[kWriteWeight], w[kWriteBias], s.kv_heads), s.kv_heads);
    in.v = ops.leaving(p.v);
    return in;
  }

  template <class Ops>
  static typename Ops::Tensor readout(Ops&, const Config&, const PartShape&, Weights<Ops>,
                                      const RecurrenceInputs<Ops>&, const typename Ops::Tensor& y) {
    return y;
  }
};

}  // namespace retort
