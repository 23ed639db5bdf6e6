// Slots: a far memory of `slots` cells per kv head without decay, read by an unnormalised exponential, under one normaliser
// with the exact window. Written softly to the nearest cells.
//
//   write  phi_j = softmax(C_k k_j + b_k) in R^M;   S_t = S_{t-1} + phi_j [v_j ; 1]^T        no rope in the far part
//   read   r_t = exp(C_q q_t + b_q);   [n ; d] = S_t^T r_t;   y_t = n / d,  log_norm_t = log d
//
// The centres of k-means over the teacher's keys are where cells start: an untrained student is softmax attention over quantised keys.
// Layer: mixers.
#pragma once

#include <algorithm>
#include <cmath>

#include "mixers/key_clusters.h"
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
    const auto p = qkv::project(ops, s, w, x);
    RecurrenceInputs<Ops> in;
    qkv::set_local(in, p);
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

  // The write softmax prefers the nearest centre: its logits are -lambda |k - c|^2 but for what all cells share. A read scores the centre as a
  // key, turned by what rope does on average at the distances from which cells are read.
  static void start_from_data(const Config& config, const PartShape& s, const HeadStatistics& statistics, int head, StartValues& values) {
    const KeyClusters clusters = cluster_keys(statistics, config.slots);
    const int d = s.head_dim, m = config.slots;
    const double lambda = kSharpness / (2 * std::max(clusters.mean_distance, 1e-12));
    float* write = values.block(kWriteWeight, head, s.kv_heads);
    float* bias = values.block(kWriteBias, head, s.kv_heads);
    double mean = 0;
    for (int cell = 0; cell < m; ++cell) {
      const double* centre = clusters.centres.data() + int64_t(cell) * d;
      double square = 0;
      for (int i = 0; i < d; ++i) {
        double sum = 0;
        for (int j = 0; j < d; ++j) sum += clusters.metric[size_t(i * d + j)] * centre[j];
        write[int64_t(cell) * d + i] = static_cast<float>(2 * lambda * sum);
        square += sum * centre[i];
      }
      bias[cell] = static_cast<float>(-lambda * square);
      mean += bias[cell] / m;
    }
    for (int cell = 0; cell < m; ++cell) bias[cell] = static_cast<float>(bias[cell] - mean);  // all cells share it; small numbers keep their digits
    const std::vector<double> turned = centres_seen_from_afar(clusters.centres, statistics.rope, d);
    for (int q = 0; q < s.group(); ++q) {
      float* read = values.block(kReadWeight, int64_t(head) * s.group() + q, s.heads);
      for (size_t i = 0; i < turned.size(); ++i) read[i] = static_cast<float>(s.score_scale() * turned[i]);
    }
  }

 private:
  static constexpr double kSharpness = 16;  // of the write softmax, in units of twice the mean distance

  // The mean of a key's rotations over distances of 64 to 320 tokens.
  static std::vector<double> centres_seen_from_afar(const std::vector<double>& centres, const RopeConfig& rope, int d) {
    constexpr int kFirst = 64, kLast = 320, kCount = kLast - kFirst + 1;
    const int half = d / 2;
    const auto frequencies = rope.frequencies(d);
    std::vector<double> out(centres.size());
    for (int i = 0; i < half; ++i) {
      double cosine = 0, sine = 0;
      for (int distance = kFirst; distance <= kLast; ++distance) {
        cosine += std::cos(frequencies[size_t(i)] * distance) / kCount;
        sine += std::sin(frequencies[size_t(i)] * distance) / kCount;
      }
      for (size_t c = size_t(i); c < centres.size(); c += size_t(d)) {
        const double a = centres[c], b = centres[c + size_t(half)];
        out[c] = a * cosine + b * sine;
        out[c + size_t(half)] = b * cosine - a * sine;
      }
    }
    return out;
  }
};

}  // namespace retort
