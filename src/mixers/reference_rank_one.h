// The rank-one transitions of mixer.h (mixers.md 3.8, 3.14) in their three forms, on doubles with plain loops: one kv head of one
// sequence, whose whole history is kept. A delta rule is the rank-one transition with b = k.
//
// Layer: mixers. Header-only; for ReferenceOps. Not thread-safe.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace retort {

struct ReferenceRankOne {
  using Row = std::vector<double>;
  std::vector<Row> k, v, l, a, b;  // by position; l per key. A token before first_position has zeros in all of them.
  std::vector<Row> state;          // [K][V]

  // sum_d x[d] rows[s][d] exp(l_{s+1} + .. + l_t)
  double weight(const double* x, const std::vector<Row>& rows, int64_t s, int64_t t) const {
    double sum = 0;
    for (size_t i = 0; i < rows[size_t(s)].size(); ++i) {
      double decay = 0;
      for (int64_t j = s + 1; j <= t; ++j) decay += l[size_t(j)][i];
      sum += x[i] * rows[size_t(s)][i] * std::exp(decay);
    }
    return sum;
  }
  static void add(Row& y, double weight, const Row& x) {
    for (size_t j = 0; j < y.size(); ++j) y[j] += weight * x[j];
  }
  // The state as tokens up to t (from `start` on) leave it, read with x.
  Row read(const double* x, int64_t start, int64_t t) const {
    Row y(v[0].size(), 0.0);
    for (size_t i = 0; i < state.size(); ++i) {
      double decay = 0;
      for (int64_t j = start; j <= t; ++j) decay += l[size_t(j)][i];
      add(y, x[i] * std::exp(decay), state[i]);
    }
    return y;
  }

  // All forms run positions [begin, end) and move the state on. query(t, h) is a query row; take(t, h, y) receives S_t^T q.
  template <class Query, class Take>
  void steps(int64_t begin, int64_t end, int heads, Query&& query, Take&& take) {
    for (int64_t t = begin; t < end; ++t) {
      const Row p = read(a[size_t(t)].data(), t, t - 1);
      for (size_t i = 0; i < state.size(); ++i) {
        for (double& x : state[i]) x *= std::exp(l[size_t(t)][i]);
        add(state[i], b[size_t(t)][i], p);
        add(state[i], k[size_t(t)][i], v[size_t(t)]);
      }
      for (int h = 0; h < heads; ++h) take(t, h, read(query(t, h), t, t - 1));
    }
  }

  template <class Query, class Take>
  void chunks(int64_t begin, int64_t end, int64_t chunk, int heads, Query&& query, Take&& take) {
    for (int64_t start = begin; start < end; start += chunk) {
      const int64_t stop = std::min(start + chunk, end);
      std::vector<Row> p;  // p_t = S_{t-1}^T a_t, by substitution
      for (int64_t t = start; t < stop; ++t) {
        const double* x = a[size_t(t)].data();
        Row y = read(x, start, t - 1);
        for (int64_t s = start; s < t; ++s) {
          add(y, weight(x, b, s, t - 1), p[size_t(s - start)]);
          add(y, weight(x, k, s, t - 1), v[size_t(s)]);
        }
        p.push_back(std::move(y));
      }
      for (int64_t t = start; t < stop; ++t) {
        for (int h = 0; h < heads; ++h) {
          const double* q = query(t, h);
          Row y = read(q, start, t);
          for (int64_t s = start; s <= t; ++s) {
            add(y, weight(q, b, s, t), p[size_t(s - start)]);
            add(y, weight(q, k, s, t), v[size_t(s)]);
          }
          take(t, h, y);
        }
      }
      for (size_t i = 0; i < state.size(); ++i) {
        double later = 0;
        std::vector<double> kept(size_t(stop - start));
        for (int64_t t = stop - 1; t >= start; --t) kept[size_t(t - start)] = std::exp(later), later += l[size_t(t)][i];
        for (double& x : state[i]) x *= std::exp(later);
        for (int64_t t = start; t < stop; ++t) {
          add(state[i], kept[size_t(t - start)] * b[size_t(t)][i], p[size_t(t - start)]);
          add(state[i], kept[size_t(t - start)] * k[size_t(t)][i], v[size_t(t)]);
        }
      }
    }
  }

  // The whole sequence as one matrix. take_matrix(t, h, row of the matrix [t + 1]) comes before take(t, h, y). Needs no state.
  template <class Query, class Take, class TakeMatrix>
  void matrix(int64_t begin, int64_t end, int heads, Query&& query, Take&& take, TakeMatrix&& take_matrix) const {
    std::vector<Row> p;  // p_t = sum_{s < t} p[t][s] v_s
    for (int64_t t = 0; t < end; ++t) {
      const double* x = a[size_t(t)].data();
      Row row(size_t(t), 0.0);
      for (int64_t s = 0; s < t; ++s) {
        row[size_t(s)] += weight(x, k, s, t - 1);
        const double through = weight(x, b, s, t - 1);
        for (int64_t r = 0; r < s; ++r) row[size_t(r)] += through * p[size_t(s)][size_t(r)];
      }
      p.push_back(std::move(row));
    }
    for (int64_t t = begin; t < end; ++t) {
      for (int h = 0; h < heads; ++h) {
        const double* q = query(t, h);
        Row row(size_t(t + 1), 0.0), y(v[0].size(), 0.0);
        for (int64_t s = 0; s <= t; ++s) {
          row[size_t(s)] += weight(q, k, s, t);
          const double through = weight(q, b, s, t);
          for (int64_t r = 0; r < s; ++r) row[size_t(r)] += through * p[size_t(s)][size_t(r)];
        }
        for (int64_t s = 0; s <= t; ++s) add(y, row[size_t(s)], v[size_t(s)]);
        take_matrix(t, h, row);
        take(t, h, y);
      }
    }
  }
};

}  // namespace retort
