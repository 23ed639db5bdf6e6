// Sixteen floats at a time in two AVX2 registers; simd_scalar.h says what each operation does.
// Layer: kernels. Only for *_avx2.cc.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/simd_transpose.h"

namespace retort {

struct Avx2 {
  static constexpr int kTileSums = 6;
  struct F { __m256 lo, hi; };
  struct I { __m256i lo, hi; };
  struct Levels { __m256i lo, hi; };
  // 16-bit sums of level pairs: 2 * 15 * 128 * 8 steps = 30720 fits. Dot8 keeps its levels' nibbles apart for that reason
  // (255 * 127 * 2 would saturate in a single step).
  struct Dot4 { __m256i lo, hi; };
  struct Dot8 { __m256i low_lo, low_hi, high_lo, high_hi; };

  static __m256i lane_mask(int n) {  // the first n of 8 lanes
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static F zero() { return set1(0.0f); }
  static F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static F load_part(const float* p, int n) {
    return {_mm256_maskload_ps(p, lane_mask(n)), _mm256_maskload_ps(p + (n > 8 ? 8 : 0), lane_mask(n - 8))};
  }
  static __m256 widen(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
  static __m128i half(const uint16_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
  static F load_bf16(const uint16_t* p) { return {widen(half(p)), widen(half(p + 8))}; }
  static F load_f16(const uint16_t* p) { return {_mm256_cvtph_ps(half(p)), _mm256_cvtph_ps(half(p + 8))}; }
  static void load_bf16_pairs(const uint16_t* p, F& even, F& odd) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16));
    const __m256i top = _mm256_set1_epi32(int(0xffff0000));
    even = {_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(b, 16))};
    odd = {_mm256_castsi256_ps(_mm256_and_si256(a, top)), _mm256_castsi256_ps(_mm256_and_si256(b, top))};
  }
  static void store(float* p, F a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
  }
  static void store_part(float* p, F a, int n) {
    _mm256_maskstore_ps(p, lane_mask(n), a.lo);
    if (n > 8) _mm256_maskstore_ps(p + 8, lane_mask(n - 8), a.hi);
  }
  static __m256i to_bf16(__m256 a) {  // in the low half of each 32 bits
    const __m256i u = _mm256_castps_si256(a);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i r = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd), 16);
    const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(64));
    return _mm256_blendv_epi8(r, quiet, _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)));
  }
  static void store_bf16(uint16_t* p, F a) {
    const __m256i packed = _mm256_packus_epi32(to_bf16(a.lo), to_bf16(a.hi));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
  }
  static F add(F a, F b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
  static F sub(F a, F b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
  static F mul(F a, F b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
  static F div(F a, F b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
  static F fma(F a, F b, F c) { return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }
  static F max(F a, F b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
  static F min(F a, F b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
  static F abs(F a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
  }
  static F zero_where_less(F a, F x, F bound) {
    return {_mm256_and_ps(a.lo, _mm256_cmp_ps(x.lo, bound.lo, _CMP_NLT_UQ)),
            _mm256_and_ps(a.hi, _mm256_cmp_ps(x.hi, bound.hi, _CMP_NLT_UQ))};
  }
  static F to_float(I a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
  static I round(F a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
  static __m256 power(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
  }
  static F scale_by_power(F a, I n) { return mul(a, {power(n.lo), power(n.hi)}); }
  static I minus_one(I n) {
    return {_mm256_sub_epi32(n.lo, _mm256_set1_epi32(1)), _mm256_sub_epi32(n.hi, _mm256_set1_epi32(1))};
  }
  static float sum(F a) {
    const __m256 b = _mm256_add_ps(a.lo, a.hi);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
  }
  static F sums(const F (&a)[16]) {
    // sum()'s tree, for several at a time: h[i] has two numbers' halves, then four's quarters, then eight sums.
    __m256 h[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const __m256 x = _mm256_add_ps(a[i].lo, a[i].hi), y = _mm256_add_ps(a[8 + i].lo, a[8 + i].hi);
      h[i] = _mm256_add_ps(_mm256_permute2f128_ps(x, y, 0x20), _mm256_permute2f128_ps(x, y, 0x31));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) h[i] = _mm256_add_ps(_mm256_shuffle_ps(h[2 * i], h[2 * i + 1], 0x44), _mm256_shuffle_ps(h[2 * i], h[2 * i + 1], 0xee));
#pragma GCC unroll 2
    for (int i = 0; i < 2; ++i) h[i] = _mm256_add_ps(_mm256_shuffle_ps(h[2 * i], h[2 * i + 1], 0x88), _mm256_shuffle_ps(h[2 * i], h[2 * i + 1], 0xdd));
    // h[0]: sums 0 to 3 | 8 to 11, h[1]: 4 to 7 | 12 to 15.
    return {_mm256_permute2f128_ps(h[0], h[1], 0x20), _mm256_permute2f128_ps(h[0], h[1], 0x31)};
  }
  static float max_of(F a) {
    const __m256 b = _mm256_max_ps(a.lo, a.hi);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
  }
  static void store_s8(int8_t* p, I a) {
    alignas(32) int32_t v[16];
    _mm256_store_si256(reinterpret_cast<__m256i*>(v), a.lo);
    _mm256_store_si256(reinterpret_cast<__m256i*>(v + 8), a.hi);
    for (int i = 0; i < 16; ++i) p[i] = int8_t(v[i]);
  }
  static void transpose8(const float* x, int64_t ld, float* out, int64_t out_ld) { Transpose8<Avx2>::run(x, ld, out, out_ld); }
  static int32_t sum(I a) {
    const __m256i b = _mm256_add_epi32(a.lo, a.hi);
    __m128i c = _mm_add_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
    c = _mm_add_epi32(c, _mm_shuffle_epi32(c, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(c, _mm_shuffle_epi32(c, 0xb1)));
  }
  static int32_t sum_s8(const int8_t* p) {
    const __m128i above_zero = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), _mm_set1_epi8(-128));
    const __m128i halves = _mm_sad_epu8(above_zero, _mm_setzero_si128());
    return _mm_cvtsi128_si32(_mm_add_epi32(halves, _mm_unpackhi_epi64(halves, halves))) - 16 * 128;
  }

  static I iset1(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  template <int kShift>
  static I shift_left(I a) { return {_mm256_slli_epi32(a.lo, kShift), _mm256_slli_epi32(a.hi, kShift)}; }
  static Levels load_levels(const std::byte* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
  }
  static __m256i low_nibbles(__m256i a) { return _mm256_and_si256(a, _mm256_set1_epi8(15)); }
  static __m256i high_nibbles(__m256i a) { return low_nibbles(_mm256_srli_epi16(a, 4)); }
  static Levels low(Levels a) { return {low_nibbles(a.lo), low_nibbles(a.hi)}; }
  static Levels high(Levels a) { return {high_nibbles(a.lo), high_nibbles(a.hi)}; }
  static void start(Dot4& d, I) { d.lo = d.hi = _mm256_setzero_si256(); }
  static void start(Dot8& d, I) { d.low_lo = d.low_hi = d.high_lo = d.high_hi = _mm256_setzero_si256(); }
  static __m256i broadcast4(const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    return _mm256_set1_epi32(four);
  }
  // The compiler may not rebalance these sums: it would keep every addend of a tile, in memory.
  static __m256i add_pairs(__m256i sum, __m256i levels, __m256i x) {
    __m256i next = _mm256_add_epi16(sum, _mm256_maddubs_epi16(levels, x));
    asm("" : "+x"(next));
    return next;
  }
  static void step(Dot4& d, Levels w, const int8_t* x) {
    const __m256i b = broadcast4(x);
    d.lo = add_pairs(d.lo, w.lo, b);
    d.hi = add_pairs(d.hi, w.hi, b);
  }
  static void step(Dot8& d, Levels w, const int8_t* x) {
    const __m256i b = broadcast4(x);
    d.low_lo = add_pairs(d.low_lo, low_nibbles(w.lo), b);
    d.low_hi = add_pairs(d.low_hi, low_nibbles(w.hi), b);
    d.high_lo = add_pairs(d.high_lo, high_nibbles(w.lo), b);
    d.high_hi = add_pairs(d.high_hi, high_nibbles(w.hi), b);
  }
  static __m256i widen_sums(__m256i sums, int16_t times) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(times)); }
  static I finish(const Dot4& d, I base) {
    return {_mm256_add_epi32(base.lo, widen_sums(d.lo, 1)), _mm256_add_epi32(base.hi, widen_sums(d.hi, 1))};
  }
  static I finish(const Dot8& d, I base) {
    const __m256i lo = _mm256_add_epi32(widen_sums(d.low_lo, 1), widen_sums(d.high_lo, 16));
    const __m256i hi = _mm256_add_epi32(widen_sums(d.low_hi, 1), widen_sums(d.high_hi, 16));
    return {_mm256_add_epi32(base.lo, lo), _mm256_add_epi32(base.hi, hi)};
  }
  static F dot_bf16(F acc, const uint16_t* w, const uint16_t* x) {
    F even, odd;
    load_bf16_pairs(w, even, odd);
    const __m256i two = _mm256_setr_epi32(x[0] << 16, x[1] << 16, 0, 0, 0, 0, 0, 0);
    const __m256 x0 = _mm256_broadcastss_ps(_mm256_castps256_ps128(_mm256_castsi256_ps(two)));
    const __m256 x1 = _mm256_set1_ps(_mm_cvtss_f32(_mm_movehdup_ps(_mm256_castps256_ps128(_mm256_castsi256_ps(two)))));
    return fma(odd, {x1, x1}, fma(even, {x0, x0}, acc));
  }
};

}  // namespace retort
