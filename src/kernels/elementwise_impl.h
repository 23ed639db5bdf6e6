// elementwise.h for a simd struct S. Layer: kernels. Included by elementwise_*.cc only.
#pragma once

#include "kernels/elementwise.h"
#include "kernels/simd_math.h"

namespace retort {

template <class S>
struct Elementwise {
  using F = typename S::F;
  using M = SimdMath<S>;

  template <class Fn>
  static void map(const float* x, int64_t n, float* y, Fn&& fn) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) S::store(y + i, fn(S::load(x + i)));
    if (i < n) S::store_part(y + i, fn(S::load_part(x + i, int(n - i))), int(n - i));
  }
  template <class Fn>
  static void map2(const float* a, const float* b, int64_t n, float* y, Fn&& fn) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) S::store(y + i, fn(S::load(a + i), S::load(b + i)));
    if (i < n) S::store_part(y + i, fn(S::load_part(a + i, int(n - i)), S::load_part(b + i, int(n - i))), int(n - i));
  }

  static float dot(const float* a, const float* b, int64_t n) {
    F s = S::zero();
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) s = S::fma(S::load(a + i), S::load(b + i), s);
    if (i < n) s = S::fma(S::load_part(a + i, int(n - i)), S::load_part(b + i, int(n - i)), s);
    return S::sum(s);
  }

  static void rms_norm(const float* x, const float* w, float eps, int64_t n, float* y) {
    const float inverse = 1.0f / __builtin_sqrtf(dot(x, x, n) / float(n) + eps);
    const F c = S::set1(inverse);
    if (w) map2(x, w, n, y, [&](F a, F b) { return S::mul(S::mul(a, c), b); });
    else map(x, n, y, [&](F a) { return S::mul(a, c); });
  }

  static void rotate(F a, F b, F c, F s, F& first, F& second) {
    first = S::sub(S::mul(a, c), S::mul(b, s));
    second = S::add(S::mul(b, c), S::mul(a, s));
  }
  static void rope(float* x, int64_t heads, int64_t d, const float* cosine, const float* sine) {
    const int64_t half = d / 2;
    for (int64_t h = 0; h < heads; ++h) {
      float *p = x + h * d, *q = p + half;
      F a, b;
      int64_t i = 0;
      for (; i + 16 <= half; i += 16) {
        rotate(S::load(p + i), S::load(q + i), S::load(cosine + i), S::load(sine + i), a, b);
        S::store(p + i, a);
        S::store(q + i, b);
      }
      if (const int n = int(half - i); n > 0) {
        rotate(S::load_part(p + i, n), S::load_part(q + i, n), S::load_part(cosine + i, n), S::load_part(sine + i, n), a, b);
        S::store_part(p + i, a, n);
        S::store_part(q + i, b, n);
      }
    }
  }

  static void silu_mul(const float* gate, const float* up, int64_t n, float* y) {
    map2(gate, up, n, y, [](F g, F u) { return S::mul(M::silu(g), u); });
  }
  static void silu(const float* x, int64_t n, float* y) { map(x, n, y, M::silu); }
  static void sigmoid(const float* x, int64_t n, float* y) { map(x, n, y, M::sigmoid); }
  static void log_sigmoid(const float* x, int64_t n, float* y) { map(x, n, y, M::log_sigmoid); }
  static void softplus(const float* x, int64_t n, float* y) { map(x, n, y, M::softplus); }
  static void exp(const float* x, int64_t n, float* y) { map(x, n, y, M::exp); }
  static void one_minus_exp(const float* x, int64_t n, float* y) {
    map(x, n, y, [](F a) { return S::sub(S::zero(), M::expm1(a)); });
  }
  static void tanh(const float* x, int64_t n, float* y) { map(x, n, y, M::tanh); }

  static float sum(const float* x, int64_t n) {
    F s = S::zero();
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) s = S::add(s, S::load(x + i));
    if (i < n) s = S::add(s, S::load_part(x + i, int(n - i)));
    return S::sum(s);
  }
  static void center(const float* x, int64_t n, float* y) {
    const F mean = S::set1(sum(x, n) / float(n));
    map(x, n, y, [&](F a) { return S::sub(a, mean); });
  }

  static float max_value(const float* x, int64_t n) {
    if (n < 16) {
      float m = x[0];
      for (int64_t i = 1; i < n; ++i) m = m > x[i] ? m : x[i];
      return m;
    }
    F m = S::load(x);
    for (int64_t i = 16; i + 16 <= n; i += 16) m = S::max(m, S::load(x + i));
    return S::max_of(S::max(m, S::load(x + n - 16)));
  }
  static float exp_minus_max(const float* x, int64_t n, float* y) {
    const float most = max_value(x, n);
    const F m = S::set1(most);
    map(x, n, y, [&](F a) { return M::exp(S::sub(a, m)); });
    return most;
  }
  static void softmax(const float* x, int64_t n, float* y) {
    exp_minus_max(x, n, y);
    scale(y, 1.0f / sum(y, n), n, y);
  }

  static void add(const float* a, const float* b, int64_t n, float* y) { map2(a, b, n, y, S::add); }
  static void mul(const float* a, const float* b, int64_t n, float* y) { map2(a, b, n, y, S::mul); }
  static void scale(const float* x, float c, int64_t n, float* y) {
    const F v = S::set1(c);
    map(x, n, y, [&](F a) { return S::mul(a, v); });
  }
  static void add_scaled(const float* x, float c, int64_t n, float* y) {
    const F v = S::set1(c);
    map2(x, y, n, y, [&](F a, F b) { return S::fma(a, v, b); });
  }
  static void mul_add(const float* a, const float* b, int64_t n, float* y) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) S::store(y + i, S::fma(S::load(a + i), S::load(b + i), S::load(y + i)));
    if (const int rest = int(n - i); rest > 0) {
      S::store_part(y + i, S::fma(S::load_part(a + i, rest), S::load_part(b + i, rest), S::load_part(y + i, rest)), rest);
    }
  }
  static int64_t argmax(const float* x, int64_t n) {
    const float most = max_value(x, n);
    for (int64_t i = 0; i < n; ++i)
      if (x[i] == most) return i;
    return 0;
  }
  static void to_bf16(const float* x, int64_t n, uint16_t* y) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) S::store_bf16(y + i, S::load(x + i));
    if (i == n) return;
    uint16_t last[16];
    S::store_bf16(last, S::load_part(x + i, int(n - i)));
    for (int64_t j = i; j < n; ++j) y[j] = last[j - i];
  }
  static void from_bf16(const uint16_t* x, int64_t n, float* y) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) S::store(y + i, S::load_bf16(x + i));
    if (i == n) return;
    uint16_t last[16] = {};
    for (int64_t j = i; j < n; ++j) last[j - i] = x[j];
    S::store_part(y + i, S::load_bf16(last), int(n - i));
  }

  static const ElementwiseKernels& table() {
    static const ElementwiseKernels kernels = {rms_norm, rope,   silu_mul,      silu,    sigmoid, log_sigmoid, softplus,
                                               exp,      one_minus_exp, tanh,   center,  exp_minus_max, softmax, add,
                                               mul,      scale,  add_scaled,    mul_add, dot,     argmax,      to_bf16, from_bf16};
    return kernels;
  }
};

}  // namespace retort
