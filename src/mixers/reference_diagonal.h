// The diagonal transition with one decay for a head or for each of its keys (mixers.md 3.1) of reference_ops.h, in its three forms, one
// sequence at a time.
//
// Layer: mixers. Header-only; for ReferenceOps.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "mixers/mixer.h"

namespace retort {

struct ReferenceDiagonal {
  using Row = std::vector<double>;
  const RecurrenceSpec& spec;
  const std::vector<Row> &k, &v, &l;  // by position: [G, K], [G, V + 1] with ones last, [G, K]
  Row& state;                         // [G, K, V + 1]: the last column is z

  int64_t columns() const { return spec.value_dim + 1; }
  int64_t kv_head(int64_t h) const { return h / (spec.heads / spec.kv_heads); }

  // sum_d q_t k_s exp(l_{s+1} + .. + l_t) of query head h
  double weight(const double* q, int64_t h, int64_t s, int64_t t) const {
    const int64_t K = spec.key_dim, first = kv_head(h) * K;
    double sum = 0;
    for (int64_t i = 0; i < K; ++i) sum += q[h * K + i] * k[size_t(s)][size_t(first + i)] * std::exp(decay(s, t, first + i));
    return sum;
  }

  // The forms call take(t, h, S^T q with z . q last) for tokens [begin, end), whose queries are q(t) [H*K].
  template <class Q, class Take>
  void by_steps(int64_t begin, int64_t end, Q&& q, Take&& take) const {
    for (int64_t t = begin; t < end; ++t) {
      each_cell([&](int64_t i, int64_t j, double& cell) { cell = std::exp(l[size_t(t)][size_t(i)]) * cell + written(t, i, j); });
      for (int64_t h = 0; h < spec.heads; ++h) take(t, h, read(q(t), h, [](int64_t) { return 1.0; }));
    }
  }

  template <class Q, class Take>
  void by_chunks(int64_t begin, int64_t end, int64_t chunk, Q&& q, Take&& take) const {
    for (int64_t first = begin; first < end; first += chunk) {
      const int64_t last = std::min(first + chunk, end) - 1;
      for (int64_t t = first; t <= last; ++t) {
        for (int64_t h = 0; h < spec.heads; ++h) {
          Row sums = read(q(t), h, [&](int64_t i) { return std::exp(decay(first - 1, t, i)); });
          for (int64_t s = first; s <= t; ++s) add_values(sums, weight(q(t), h, s, t), h, s);
          take(t, h, sums);
        }
      }
      each_cell([&](int64_t i, int64_t j, double& cell) {
        cell *= std::exp(decay(first - 1, last, i));
        for (int64_t s = first; s <= last; ++s) cell += std::exp(decay(s, last, i)) * written(s, i, j);
      });
    }
  }

  // Also calls matrix_row(h, weights, z . q) with row t of the head's matrix before a normaliser.
  template <class Q, class Take, class MatrixRow>
  void by_matrix(int64_t begin, int64_t end, Q&& q, Take&& take, MatrixRow&& matrix_row) const {
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t h = 0; h < spec.heads; ++h) {
        Row weights, sums(size_t(columns()), 0.0);
        for (int64_t s = 0; s <= t; ++s) {
          weights.push_back(weight(q(t), h, s, t));
          add_values(sums, weights.back(), h, s);
        }
        take(t, h, sums);
        matrix_row(h, std::move(weights), sums.back());
      }
    }
  }

 private:
  // l_{from+1} + .. + l_t of one key
  double decay(int64_t from, int64_t t, int64_t i) const {
    double sum = 0;
    for (int64_t j = from + 1; j <= t; ++j) sum += l[size_t(j)][size_t(i)];
    return sum;
  }
  double written(int64_t t, int64_t i, int64_t j) const { return k[size_t(t)][size_t(i)] * v[size_t(t)][size_t(i / spec.key_dim * columns() + j)]; }
  template <class Fn>
  void each_cell(Fn&& fn) const {  // fn(key of all heads', column, cell)
    for (int64_t i = 0; i < spec.kv_heads * spec.key_dim; ++i) {
      for (int64_t j = 0; j < columns(); ++j) fn(i, j, state[size_t(i * columns() + j)]);
    }
  }
  // S^T q of head h, every key times factor(key)
  template <class Factor>
  Row read(const double* q, int64_t h, Factor&& factor) const {
    Row sums(size_t(columns()), 0.0);
    for (int64_t i = 0; i < spec.key_dim; ++i) {
      const int64_t key = kv_head(h) * spec.key_dim + i;
      const double read = q[h * spec.key_dim + i] * factor(key);
      for (int64_t j = 0; j < columns(); ++j) sums[size_t(j)] += read * state[size_t(key * columns() + j)];
    }
    return sums;
  }
  void add_values(Row& sums, double weight, int64_t h, int64_t s) const {
    for (int64_t j = 0; j < columns(); ++j) sums[size_t(j)] += weight * v[size_t(s)][size_t(kv_head(h) * columns() + j)];
  }
};

}  // namespace retort
