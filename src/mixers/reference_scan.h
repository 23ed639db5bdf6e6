// The selective scan (Decay::kPerCell, mixers.md 3.11) of reference_ops.h, in its three forms, one sequence at a time.
//
//   S_t[i, c] = exp(-exp(decay_rate[c, i]) step_t[c]) S_{t-1}[i, c] + k_t[i] v_t[c];   y_t = S_t^T q_t
//
// Layer: mixers. Header-only; for tests and oracles. Every channel c has a mixing matrix of its own.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "mixers/mixer.h"

namespace retort {

struct ReferenceScan {
  using Rows = std::vector<std::vector<double>>;  // by position
  const RecurrenceSpec& spec;
  const Rows &k, &v, &step;                       // a token before first_position has zeros in k and step
  std::vector<double>& state;                     // [G, K, V]
  std::vector<double> rates;                      // [G*V, K], -exp of what it is given

  ReferenceScan(const RecurrenceSpec& s, const std::vector<double>& decay_rate, const Rows& keys, const Rows& values, const Rows& steps,
                std::vector<double>& sum)
      : spec(s), k(keys), v(values), step(steps), state(sum), rates(decay_rate) {
    for (double& r : rates) r = -std::exp(r);
  }

  double cell_rate(int64_t g, int64_t i, int64_t c) const { return rates[size_t((g * spec.value_dim + c) * spec.key_dim + i)]; }
  double& cell(int64_t g, int64_t i, int64_t c) const { return state[size_t((g * spec.key_dim + i) * spec.value_dim + c)]; }
  template <class Fn>
  void each_cell(Fn&& fn) const {  // fn(g, i, c)
    for (int64_t g = 0; g < spec.kv_heads; ++g) {
      for (int64_t i = 0; i < spec.key_dim; ++i) {
        for (int64_t c = 0; c < spec.value_dim; ++c) fn(g, i, c);
      }
    }
  }
  int64_t kv_head(int64_t h) const { return h / (spec.heads / spec.kv_heads); }
  double at(const Rows& rows, int64_t t, int64_t g, int64_t i, int64_t width) const { return rows[size_t(t)][size_t(g * width + i)]; }

  // step_{from+1} + .. + step_t of one channel
  double elapsed(int64_t from, int64_t t, int64_t g, int64_t c) const {
    double sum = 0;
    for (int64_t j = from + 1; j <= t; ++j) sum += at(step, j, g, c, spec.value_dim);
    return sum;
  }
  // M_c[t, s] without the step that v has as a factor: sum_i q_t[i] k_s[i] exp(rate[i, c] (step_{s+1} + .. + step_t)[c])
  double weight(const double* q, int64_t h, int64_t c, int64_t s, int64_t t) const {
    const int64_t g = kv_head(h);
    const double time = elapsed(s, t, g, c);
    double sum = 0;
    for (int64_t i = 0; i < spec.key_dim; ++i) {
      sum += q[h * spec.key_dim + i] * at(k, s, g, i, spec.key_dim) * std::exp(cell_rate(g, i, c) * time);
    }
    return sum;
  }

  // The forms write y(t) [H*V] of tokens [begin, end), whose queries are q(t) [H*K].
  template <class Q, class Y>
  void by_steps(int64_t begin, int64_t end, Q&& q, Y&& y) const {
    for (int64_t t = begin; t < end; ++t) {
      each_cell([&](int64_t g, int64_t i, int64_t c) {
        cell(g, i, c) = std::exp(cell_rate(g, i, c) * at(step, t, g, c, spec.value_dim)) * cell(g, i, c) +
                        at(k, t, g, i, spec.key_dim) * at(v, t, g, c, spec.value_dim);
      });
      read(q(t), y(t), [](int64_t, int64_t, int64_t) { return 1.0; });
    }
  }

  template <class Q, class Y>
  void by_chunks(int64_t begin, int64_t end, int64_t chunk, Q&& q, Y&& y) const {
    for (int64_t first = begin; first < end; first += chunk) {
      const int64_t last = std::min(first + chunk, end) - 1;
      const auto kept = [&](int64_t from, int64_t to, int64_t g, int64_t i, int64_t c) {
        return std::exp(cell_rate(g, i, c) * elapsed(from, to, g, c));
      };
      for (int64_t t = first; t <= last; ++t) {
        read(q(t), y(t), [&](int64_t g, int64_t i, int64_t c) { return kept(first - 1, t, g, i, c); });
        for (int64_t h = 0; h < spec.heads; ++h) {
          for (int64_t c = 0; c < spec.value_dim; ++c) {
            double& to = y(t)[h * spec.value_dim + c];
            for (int64_t s = first; s <= t; ++s) to += weight(q(t), h, c, s, t) * at(v, s, kv_head(h), c, spec.value_dim);
          }
        }
      }
      each_cell([&](int64_t g, int64_t i, int64_t c) {
        cell(g, i, c) *= kept(first - 1, last, g, i, c);
        for (int64_t s = first; s <= last; ++s) {
          cell(g, i, c) += kept(s, last, g, i, c) * at(k, s, g, i, spec.key_dim) * at(v, s, g, c, spec.value_dim);
        }
      });
    }
  }

  // Also calls row(h, weights) with row t of the mean of step_s[c] M_c[t, s] over the head's channels.
  template <class Q, class Y, class Row>
  void by_matrix(int64_t begin, int64_t end, Q&& q, Y&& y, Row&& row) const {
    const int64_t V = spec.value_dim;
    for (int64_t t = begin; t < end; ++t) {
      for (int64_t h = 0; h < spec.heads; ++h) {
        std::vector<double> mean(size_t(t + 1), 0.0);
        for (int64_t s = 0; s <= t; ++s) {
          for (int64_t c = 0; c < V; ++c) {
            const double w = weight(q(t), h, c, s, t);
            y(t)[h * V + c] += w * at(v, s, kv_head(h), c, V);
            mean[size_t(s)] += w * at(step, s, kv_head(h), c, V) / double(V);
          }
        }
        row(h, std::move(mean));
      }
    }
  }

 private:
  // y += S^T q, every cell times factor(g, i, c)
  template <class Factor>
  void read(const double* q, double* y, Factor&& factor) const {
    const int64_t K = spec.key_dim, V = spec.value_dim;
    for (int64_t h = 0; h < spec.heads; ++h) {
      const int64_t g = kv_head(h);
      for (int64_t i = 0; i < K; ++i) {
        for (int64_t c = 0; c < V; ++c) y[h * V + c] += q[h * K + i] * factor(g, i, c) * cell(g, i, c);
      }
    }
  }
};

}  // namespace retort
