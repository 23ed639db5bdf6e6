// Operands of small_gemm.h as pairs of bf16 for vdpbf16ps: products of rounded numbers, sums in f32.
//
// Layer: kernels. Only for *_avx512.cc.
#pragma once

#include "kernels/simd_avx512.h"
#include "kernels/small_gemm.h"

namespace retort {

struct Bf16Mode {
  using Simd = Avx512;
  using Real = float;
  using Unit = uint32_t;  // two bf16, the first in the low half
  using F = __m512;
  static constexpr int kLanes = 16, kVecs = 4, kRows = 6, kPerUnit = 2, kPanel = 64;
  static F load_b(const Unit* p) { return _mm512_loadu_ps(p); }
  static F broadcast(const Unit* p) { return _mm512_castsi512_ps(_mm512_set1_epi32(int(*p))); }
  static F step(F acc, F a, F b) { return _mm512_dpbf16_ps(acc, (__m512bh)a, (__m512bh)b); }

  static __mmask16 mask(int64_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : __mmask16((1u << n) - 1); }

  // x[0..16) and y[0..16) (the first n of each) to sixteen units (x, y).
  static __m512i zip(const float* x, const float* y, int64_t n) {
    const __m512 low = _mm512_maskz_loadu_ps(mask(n), x);
    const __m512 high = y ? _mm512_maskz_loadu_ps(mask(n), y) : _mm512_setzero_ps();
    return Avx512::bf16_pairs(low, high);
  }
  // Sixteen columns (the first n) of x[k, *] from column j on, rows 2u and 2u + 1; zeros beyond k.
  static __m512i unit_row(const float* x, int64_t ld, int64_t k, int64_t u, int64_t j, int64_t n) {
    if (2 * u >= k) return _mm512_setzero_si512();
    const float* row = x + 2 * u * ld + j;
    return zip(row, 2 * u + 1 < k ? row + ld : nullptr, n);
  }
  // x[0..32) (the first n) to sixteen units of neighbours.
  static __m512i pairs(const float* x, int64_t n) {
    const __m512 low = _mm512_maskz_loadu_ps(mask(n), x);
    const __m512 high = n > 16 ? _mm512_maskz_loadu_ps(mask(n - 16), x + 16) : _mm512_setzero_ps();
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
  }
  static void transpose(__m512i (&r)[16]) {
    __m512i t[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
      t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
      t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
      r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
      r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
      r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
      r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    // r[4b + c]: column 4l + c of rows 4b..4b+3 in 128-bit lane l.
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const __m512i ab_even = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88), ab_odd = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd);
      const __m512i cd_even = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
      const __m512i cd_odd = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
      t[c] = _mm512_shuffle_i32x4(ab_even, cd_even, 0x88);
      t[8 + c] = _mm512_shuffle_i32x4(ab_even, cd_even, 0xdd);
      t[4 + c] = _mm512_shuffle_i32x4(ab_odd, cd_odd, 0x88);
      t[12 + c] = _mm512_shuffle_i32x4(ab_odd, cd_odd, 0xdd);
    }
    for (int i = 0; i < 16; ++i) r[i] = t[i];
  }

  static Left<Unit> left_rows(ScratchFrame& frame, const float* x, int64_t ld, int64_t m, int64_t k) {
    const int64_t stride = round_up(k, 32) / 2;
    Unit* out = frame.alloc<Unit>(round_up(m, 16) * stride);  // whole tiles of the matrix unit
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < k; j += 32) _mm512_storeu_si512(out + i * stride + j / 2, pairs(x + i * ld + j, k - j));
    }
    return {out, stride, 1};
  }
  static Left<Unit> left_cols(ScratchFrame& frame, const float* x, int64_t ld, int64_t k, int64_t m) {
    const int64_t stride = round_up(m, 16), units = (k + 1) / 2;
    Unit* out = frame.alloc<Unit>(units * stride);
    for (int64_t i = 0; i < units; ++i) {
      for (int64_t j = 0; j < m; j += 16) _mm512_storeu_si512(out + i * stride + j, unit_row(x, ld, k, i, j, m - j));
    }
    return {out, 1, stride};
  }
  static Right<Unit> right_rows(ScratchFrame& frame, const float* x, int64_t ld, int64_t k, int64_t n) {
    return right_rows(frame, x, ld, k, n, (k + 1) / 2);
  }
  // Padded with zeros to so many units.
  static Right<Unit> right_rows(ScratchFrame& frame, const float* x, int64_t ld, int64_t k, int64_t n, int64_t units) {
    Unit* out = frame.alloc<Unit>(round_up(n, kPanel) * units);
    for (int64_t n0 = 0; n0 < n; n0 += kPanel) {
      for (int64_t u = 0; u < units; ++u) {
        for (int64_t j = 0; j < kPanel; j += 16)
          _mm512_storeu_si512(out + n0 * units + u * kPanel + j, unit_row(x, ld, k, u, n0 + j, n - n0 - j));
      }
    }
    return {out, units};
  }
  static Right<Unit> right_cols(ScratchFrame& frame, const float* x, int64_t ld, int64_t n, int64_t k) {
    const int64_t units = round_up(k, 32) / 2;
    Unit* out = frame.alloc<Unit>(round_up(n, kPanel) * units);
    for (int64_t n0 = 0; n0 < round_up(n, kPanel); n0 += 16) {
      Unit* panel = out + n0 / kPanel * kPanel * units + n0 % kPanel;
      for (int64_t i = 0; i < k; i += 32) {
        __m512i r[16];
        for (int j = 0; j < 16; ++j) r[j] = n0 + j < n ? pairs(x + (n0 + j) * ld + i, k - i) : _mm512_setzero_si512();
        transpose(r);
        for (int j = 0; j < 16; ++j) _mm512_storeu_si512(panel + (i / 2 + j) * kPanel, r[j]);
      }
    }
    return {out, units};
  }
};

}  // namespace retort
