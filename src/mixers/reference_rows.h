// Operations of reference_ops.h that know a row by itself: plain loops on doubles.
//
// Layer: mixers. Header-only; for ReferenceOps. Pure.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "mixers/mixer.h"

namespace retort {

class ReferenceRows {
 public:
  struct Tensor {
    int64_t rows = 0, columns = 0;
    std::vector<double> values;  // [rows, columns]
    Tensor() = default;
    Tensor(int64_t r, int64_t c) : rows(r), columns(c), values(size_t(r * c), 0.0) {}
    explicit operator bool() const { return columns > 0; }
    double* row(int64_t r) { return values.data() + r * columns; }
    const double* row(int64_t r) const { return values.data() + r * columns; }
  };
  struct Weight {
    std::vector<int64_t> shape;
    std::vector<double> values;
    explicit operator bool() const { return !shape.empty(); }
    double operator[](int64_t i) const { return values[size_t(i)]; }
  };
  struct Pair {
    Tensor values, maximum;
  };

  Tensor linear(const Tensor& x, const Weight& w, const Weight& b = {}) const {
    Tensor y(x.rows, w.shape[0]);
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t o = 0; o < y.columns; ++o) {
        double sum = b ? b[o] : 0;
        for (int64_t i = 0; i < x.columns; ++i) sum += x.row(t)[i] * w[o * x.columns + i];
        y.row(t)[o] = sum;
      }
    }
    return y;
  }
  Tensor head_linear(const Tensor& x, const Weight& w, const Weight& b, int heads) const {
    const int64_t out = w.shape[1], in = w.shape[2];
    Tensor y(x.rows, heads * out);
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t o = 0; o < y.columns; ++o) {
        const int64_t own = w.shape[0] == 1 ? o % out : o;
        double sum = b ? b[own] : 0;
        for (int64_t i = 0; i < in; ++i) sum += x.row(t)[o / out * in + i] * w[own * in + i];
        y.row(t)[o] = sum;
      }
    }
    return y;
  }
  Tensor rms_norm_heads(const Tensor& x, const Weight& w, int heads, double eps) const {
    Tensor y = x;
    const int64_t d = x.columns / heads;
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int h = 0; h < heads; ++h) {
        double* v = y.row(t) + h * d;
        double squares = 0;
        for (int64_t i = 0; i < d; ++i) squares += v[i] * v[i];
        const double factor = 1 / std::sqrt(squares / double(d) + eps);
        for (int64_t i = 0; i < d; ++i) v[i] *= factor * (!w ? 1 : w.values.size() == size_t(d) ? w[i] : w[h * d + i]);
      }
    }
    return y;
  }
  Tensor softmax_heads(const Tensor& x, int heads) const {
    Tensor y = exp_heads(x, heads).values;
    const int64_t d = x.columns / heads;
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int h = 0; h < heads; ++h) {
        double* v = y.row(t) + h * d;
        double sum = 0;
        for (int64_t i = 0; i < d; ++i) sum += v[i];
        for (int64_t i = 0; i < d; ++i) v[i] /= sum;
      }
    }
    return y;
  }
  Pair exp_heads(const Tensor& x, int heads) const {
    Pair p{x, Tensor(x.rows, heads)};
    const int64_t d = x.columns / heads;
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int h = 0; h < heads; ++h) {
        double* v = p.values.row(t) + h * d;
        const double most = *std::max_element(v, v + d);
        for (int64_t i = 0; i < d; ++i) v[i] = std::exp(v[i] - most);
        p.maximum.row(t)[h] = most;
      }
    }
    return p;
  }
  Tensor center_heads(const Tensor& x, int heads) const {
    const int64_t d = x.columns / heads;
    return map_heads(x, heads, d, [d](const double* in, double* out) {
      double sum = 0;
      for (int64_t i = 0; i < d; ++i) sum += in[i];
      for (int64_t i = 0; i < d; ++i) out[i] = in[i] - sum / double(d);
    });
  }
  Tensor mirror_heads(const Tensor& x, int heads) const {
    const int64_t d = x.columns / heads;
    return map_heads(x, heads, 2 * d, [d](const double* in, double* out) {
      for (int64_t i = 0; i < d; ++i) out[i] = in[i], out[d + i] = -in[i];
    });
  }
  Tensor square_heads(const Tensor& x, int heads) const {
    const int64_t f = x.columns / heads;
    return map_heads(x, heads, f * (f + 1) / 2, [f](const double* in, double* out) {
      for (int64_t i = 0; i < f; ++i) *out++ = in[i] * in[i];
      for (int64_t i = 0; i < f; ++i) {
        for (int64_t j = i + 1; j < f; ++j) *out++ = std::sqrt(2.0) * in[i] * in[j];
      }
    });
  }
  Tensor repeat_heads(const Tensor& x, int heads, int times) const {
    const int64_t d = x.columns / heads;
    return map_heads(x, heads, d * times, [d, times](const double* in, double* out) {
      for (int64_t i = 0; i < d * times; ++i) out[i] = in[i % d];
    });
  }
  Tensor dot_heads(const Tensor& a, const Tensor& b, int heads) const {
    Tensor y(a.rows, heads);
    const int64_t d = a.columns / heads;
    for (int64_t t = 0; t < a.rows; ++t) {
      for (int64_t i = 0; i < a.columns; ++i) y.row(t)[i / d] += a.row(t)[i] * b.row(t)[i];
    }
    return y;
  }
  static double log_sigmoid(double z) { return z < 0 ? z - std::log1p(std::exp(z)) : -std::log1p(std::exp(-z)); }
  Tensor sigmoid(const Tensor& x) const { return map(x, [](double z) { return 1 / (1 + std::exp(-z)); }); }
  Tensor log_sigmoid(const Tensor& x) const { return map(x, [](double z) { return log_sigmoid(z); }); }
  Tensor silu(const Tensor& x) const { return map(x, [](double z) { return z / (1 + std::exp(-z)); }); }
  Tensor neg(const Tensor& x) const { return map(x, [](double z) { return -z; }); }
  Tensor tanh(const Tensor& x) const { return map(x, [](double z) { return std::tanh(z); }); }
  Tensor exp(const Tensor& x) const { return map(x, [](double z) { return std::exp(z); }); }
  Tensor one_minus_exp(const Tensor& x) const { return map(x, [](double z) { return -std::expm1(z); }); }
  Tensor scale(const Tensor& x, double c) const { return map(x, [c](double z) { return c * z; }); }
  Tensor add(const Tensor& a, const Tensor& b) const { return zip(a, [&](int64_t t, int64_t i) { return b.row(t)[i]; }, kPlus); }
  Tensor mul(const Tensor& a, const Tensor& b) const { return zip(a, [&](int64_t t, int64_t i) { return b.row(t)[i]; }, kTimes); }
  Tensor add_row(const Tensor& x, const Weight& v) const { return zip(x, [&](int64_t, int64_t i) { return v[i]; }, kPlus); }
  Tensor mul_row(const Tensor& x, const Weight& v) const { return zip(x, [&](int64_t, int64_t i) { return v[i]; }, kTimes); }
  Tensor mul_exp_row(const Tensor& x, const Weight& v) const { return zip(x, [&](int64_t, int64_t i) { return std::exp(v[i]); }, kTimes); }
  Tensor same_row(const Tensor& x, const std::vector<double>& values) const {
    Tensor y(x.rows, int64_t(values.size()));
    for (int64_t t = 0; t < x.rows; ++t) std::copy(values.begin(), values.end(), y.row(t));
    return y;
  }
  Tensor mul_heads(const Tensor& x, const Tensor& g, int heads) const {
    const int64_t d = x.columns / heads;
    return zip(x, [&](int64_t t, int64_t i) { return g.row(t)[i / d]; }, kTimes);
  }
  Tensor columns(const Tensor& x, int64_t first, int64_t count) const {
    Tensor y(x.rows, count);
    for (int64_t t = 0; t < x.rows; ++t) std::copy(x.row(t) + first, x.row(t) + first + count, y.row(t));
    return y;
  }
  Tensor join(const Normalised<Tensor>& a, const Normalised<Tensor>& b, int heads) const {
    Tensor y = a.out;
    const int64_t d = y.columns / heads;
    for (int64_t t = 0; t < y.rows; ++t) {
      for (int64_t i = 0; i < y.columns; ++i) {
        const double la = a.log_norm.row(t)[i / d], lb = b.log_norm.row(t)[i / d], most = std::max(la, lb);
        const double wa = std::exp(la - most), wb = std::exp(lb - most);
        y.row(t)[i] = (wa * a.out.row(t)[i] + wb * b.out.row(t)[i]) / (wa + wb);
      }
    }
    return y;
  }

 private:
  static constexpr auto kPlus = [](double a, double b) { return a + b; };
  static constexpr auto kTimes = [](double a, double b) { return a * b; };

  template <class Fn>
  static Tensor map(Tensor x, Fn&& fn) {
    for (double& e : x.values) e = fn(e);
    return x;
  }
  template <class Other, class Fn>
  static Tensor zip(Tensor x, Other&& other, Fn&& fn) {
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t i = 0; i < x.columns; ++i) x.row(t)[i] = fn(x.row(t)[i], other(t, i));
    }
    return x;
  }
  // fn(head's columns, its `out` new columns)
  template <class Fn>
  static Tensor map_heads(const Tensor& x, int heads, int64_t out, Fn&& fn) {
    Tensor y(x.rows, heads * out);
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int h = 0; h < heads; ++h) fn(x.row(t) + h * (x.columns / heads), y.row(t) + h * out);
    }
    return y;
  }
};

}  // namespace retort
