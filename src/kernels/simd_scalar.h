// Sixteen floats at a time, without intrinsics: the reference of what simd_avx2.h, simd_avx512.h and simd_neon.h do.
//
// Layer: kernels. Kernels are templates over one of these structs, so every equation is written once. All of them have sixteen
// lanes, fused multiply-adds and the same reduction trees: results are the same bits on every instruction set.
//
// Dot8 / Dot4 accumulate, for 16 rows, dot products of 4 unsigned levels per row with 4 shared signed bytes; Dot4's levels
// are below 16. At most eight steps may pass between dot_start and dot_finish (AVX2 sums in 16 bits).
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/half.h"

namespace retort {

struct Scalar {
  static constexpr int kTileSums = 16;  // as many F as registers hold, beside what is added to them
  struct F { float v[16]; };
  struct I { int32_t v[16]; };
  struct Levels { uint8_t v[64]; };
  struct Dot4 { int32_t v[16]; };
  struct Dot8 { int32_t v[16]; };

  template <class Fn>
  static F map(Fn&& fn) {
    F r;
    for (int i = 0; i < 16; ++i) r.v[i] = fn(i);
    return r;
  }
  static F zero() { return map([](int) { return 0.0f; }); }
  static F set1(float x) { return map([&](int) { return x; }); }
  static F load(const float* p) { return map([&](int i) { return p[i]; }); }
  static F load_part(const float* p, int n) { return map([&](int i) { return i < n ? p[i] : 0.0f; }); }
  static F load_bf16(const uint16_t* p) { return map([&](int i) { return bf16_to_float(p[i]); }); }
  static F load_f16(const uint16_t* p) { return map([&](int i) { return f16_to_float(p[i]); }); }
  // 32 bf16: the elements 0, 2, 4.. and 1, 3, 5..
  static void load_bf16_pairs(const uint16_t* p, F& even, F& odd) {
    even = map([&](int i) { return bf16_to_float(p[2 * i]); });
    odd = map([&](int i) { return bf16_to_float(p[2 * i + 1]); });
  }
  static void store(float* p, F a) { std::memcpy(p, a.v, sizeof a.v); }
  static void store_part(float* p, F a, int n) { std::memcpy(p, a.v, size_t(n) * 4); }
  static void store_bf16(uint16_t* p, F a) {
    for (int i = 0; i < 16; ++i) p[i] = float_to_bf16(a.v[i]);
  }
  static F add(F a, F b) { return map([&](int i) { return a.v[i] + b.v[i]; }); }
  static F sub(F a, F b) { return map([&](int i) { return a.v[i] - b.v[i]; }); }
  static F mul(F a, F b) { return map([&](int i) { return a.v[i] * b.v[i]; }); }
  static F div(F a, F b) { return map([&](int i) { return a.v[i] / b.v[i]; }); }
  static F fma(F a, F b, F c) { return map([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); }); }
  // The second operand when either is NaN.
  static F max(F a, F b) { return map([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
  static F min(F a, F b) { return map([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; }); }
  static F abs(F a) { return map([&](int i) { return std::fabs(a.v[i]); }); }
  static F zero_where_less(F a, F x, F bound) {  // x < bound ? 0 : a
    return map([&](int i) { return x.v[i] < bound.v[i] ? 0.0f : a.v[i]; });
  }
  static F to_float(I a) { return map([&](int i) { return float(a.v[i]); }); }
  static I round(F a) {
    I r;
    for (int i = 0; i < 16; ++i) r.v[i] = int32_t(std::lrintf(a.v[i]));
    return r;
  }
  static F scale_by_power(F a, I n) {  // a 2^n for normal 2^n
    return map([&](int i) { return a.v[i] * std::bit_cast<float>(uint32_t(n.v[i] + 127) << 23); });
  }
  static I minus_one(I n) {
    for (int32_t& v : n.v) v -= 1;
    return n;
  }
  static float sum(F a) {
    for (int n = 8; n > 0; n /= 2)
      for (int i = 0; i < n; ++i) a.v[i] += a.v[i + n];
    return a.v[0];
  }
  static F sums(const F (&a)[16]) {  // sum(a[i]) in lane i
    return map([&](int i) { return sum(a[i]); });
  }
  static float max_of(F a) {
    for (int n = 8; n > 0; n /= 2)
      for (int i = 0; i < n; ++i) a.v[i] = a.v[i] > a.v[i + n] ? a.v[i] : a.v[i + n];
    return a.v[0];
  }
  static void store_s8(int8_t* p, I a) {
    for (int i = 0; i < 16; ++i) p[i] = int8_t(a.v[i]);
  }
  static int32_t sum(I a) {
    int32_t s = 0;
    for (int v : a.v) s += v;
    return s;
  }
  static int32_t sum_s8(const int8_t* p) {  // sixteen stored bytes
    int32_t s = 0;
    for (int i = 0; i < 16; ++i) s += p[i];
    return s;
  }

  static I iset1(int32_t x) {
    I r;
    for (int32_t& v : r.v) v = x;
    return r;
  }
  template <int kShift>
  static I shift_left(I a) {
    for (int32_t& v : a.v) v = int32_t(uint32_t(v) << kShift);
    return a;
  }
  static Levels load_levels(const std::byte* p) {
    Levels r;
    std::memcpy(r.v, p, 64);
    return r;
  }
  static Levels low(Levels a) {
    for (uint8_t& v : a.v) v &= 15;
    return a;
  }
  static Levels high(Levels a) {
    for (uint8_t& v : a.v) v >>= 4;
    return a;
  }
  static void start(Dot4& d, I base) { std::memcpy(d.v, base.v, sizeof d.v); }
  static void start(Dot8& d, I base) { std::memcpy(d.v, base.v, sizeof d.v); }
  template <class Dot>
  static void step(Dot& d, Levels w, const int8_t* x) {
    for (int r = 0; r < 16; ++r)
      for (int k = 0; k < 4; ++k) d.v[r] += int32_t(w.v[4 * r + k]) * x[k];
  }
  template <class Dot>
  static I finish(const Dot& d, I) {
    I r;
    std::memcpy(r.v, d.v, sizeof d.v);
    return r;
  }
  // acc[r] += w[2r] x[0] + w[2r+1] x[1], bf16 weights, activations already rounded to bf16.
  static F dot_bf16(F acc, const uint16_t* w, const uint16_t* x) {
    const float x0 = bf16_to_float(x[0]), x1 = bf16_to_float(x[1]);
    return map([&](int i) {
      return std::fma(bf16_to_float(w[2 * i + 1]), x1, std::fma(bf16_to_float(w[2 * i]), x0, acc.v[i]));
    });
  }
};

}  // namespace retort
