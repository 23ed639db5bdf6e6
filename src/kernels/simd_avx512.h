// Sixteen floats at a time in one AVX-512 register; simd_scalar.h says what each operation does.
// Layer: kernels. Only for *_avx512.cc.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12's own intrinsics, which start from an undefined register
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/simd_transpose.h"

namespace retort {

struct Avx512 {
  static constexpr int kTileSums = 16;
  using F = __m512;
  using I = __m512i;
  using Levels = __m512i;
  struct Dot4 { __m512i v; };
  struct Dot8 { __m512i v; };

  static __mmask16 mask(int n) { return __mmask16((1u << n) - 1); }
  static F zero() { return _mm512_setzero_ps(); }
  static F set1(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load_part(const float* p, int n) { return _mm512_maskz_loadu_ps(mask(n), p); }
  static F load_bf16(const uint16_t* p) {
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
  }
  static void transpose8(const float* x, int64_t ld, float* out, int64_t out_ld) { Transpose8<Avx512>::run(x, ld, out, out_ld); }
  static F load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void load_bf16_pairs(const uint16_t* p, F& even, F& odd) {
    const __m512i v = _mm512_loadu_si512(p);
    even = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
    odd = _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(int(0xffff0000))));
  }
  static void store(float* p, F a) { _mm512_storeu_ps(p, a); }
  static void store_part(float* p, F a, int n) { _mm512_mask_storeu_ps(p, mask(n), a); }
  // In integers and not with vcvtneps2bf16, which flushes subnormals.
  static void store_bf16(uint16_t* p, F a) {
    const __m512i u = _mm512_castps_si512(a);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
    const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
    r = _mm512_mask_or_epi32(r, nan, _mm512_srli_epi32(u, 16), _mm512_set1_epi32(64));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(r));
  }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F abs(F a) { return _mm512_abs_ps(a); }
  static F zero_where_less(F a, F x, F bound) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, bound, _CMP_NLT_UQ), a);
  }
  static F to_float(I a) { return _mm512_cvtepi32_ps(a); }
  static I round(F a) { return _mm512_cvtps_epi32(a); }
  static F scale_by_power(F a, I n) {
    return _mm512_mul_ps(
        a, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23)));
  }
  static I minus_one(I n) { return _mm512_sub_epi32(n, _mm512_set1_epi32(1)); }
  static float sum(F a) {
    const __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
  }
  // The tree of sum() for sixteen vectors at once: each step adds the halves of two vectors, 8, 4, 2 and 1 lanes apart.
  static F sums(const F (&a)[16]) {
    F b[8], c[4], d[2];
    for (int i = 0; i < 8; ++i)
      b[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a[i], a[i + 8], 0x44), _mm512_shuffle_f32x4(a[i], a[i + 8], 0xee));
    for (int i = 0; i < 4; ++i)
      c[i] = _mm512_add_ps(_mm512_shuffle_f32x4(b[i], b[i + 4], 0x88), _mm512_shuffle_f32x4(b[i], b[i + 4], 0xdd));
    for (int i = 0; i < 2; ++i)
      d[i] = _mm512_add_ps(_mm512_shuffle_ps(c[i], c[i + 2], 0x44), _mm512_shuffle_ps(c[i], c[i + 2], 0xee));
    const F e = _mm512_add_ps(_mm512_shuffle_ps(d[0], d[1], 0x88), _mm512_shuffle_ps(d[0], d[1], 0xdd));
    // Where each vector's sum has come to lie.
    return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15), e);
  }
  static float max_of(F a) {
    const __m256 b = _mm256_max_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_movehdup_ps(c)));
  }
  static void store_s8(int8_t* p, I a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
  }
  static int32_t sum(I a) { return _mm512_reduce_add_epi32(a); }
  static int32_t sum_s8(const int8_t* p) {
    const __m128i above_zero = _mm_xor_si128(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)), _mm_set1_epi8(-128));
    const __m128i halves = _mm_sad_epu8(above_zero, _mm_setzero_si128());
    return _mm_cvtsi128_si32(_mm_add_epi32(halves, _mm_unpackhi_epi64(halves, halves))) - 16 * 128;
  }

  static I iset1(int32_t x) { return _mm512_set1_epi32(x); }
  template <int kShift>
  static I shift_left(I a) { return kShift == 0 ? a : _mm512_slli_epi32(a, kShift); }
  static Levels load_levels(const std::byte* p) { return _mm512_loadu_si512(p); }
  static Levels low(Levels a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
  static Levels high(Levels a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15)); }
  template <class Dot>
  static void start(Dot& d, I base) { d.v = base; }
  template <class Dot>
  static void step(Dot& d, Levels w, const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    d.v = _mm512_dpbusd_epi32(d.v, w, _mm512_set1_epi32(four));
  }
  template <class Dot>
  static I finish(const Dot& d, I) { return d.v; }
  // Sixteen pairs of bf16, `first` in the low halves.
  static I bf16_pairs(F first, F second) {
    alignas(64) static constexpr uint16_t kInterleave[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                             8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return _mm512_permutexvar_epi16(_mm512_load_si512(kInterleave), (I)_mm512_cvtne2ps_pbh(second, first));
  }
  static F dot_bf16(F acc, const uint16_t* w, const uint16_t* x) {
    int32_t two;
    std::memcpy(&two, x, 4);
    return _mm512_dpbf16_ps(acc, __m512bh(_mm512_loadu_si512(w)), __m512bh(_mm512_set1_epi32(two)));
  }
};

}  // namespace retort
