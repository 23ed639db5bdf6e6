// small_gemm.h on the matrix unit (AMX-BF16): Bf16Mode's rounded operands, in an order that tiles of sixteen rows and sixteen units load.
//
// Layer: kernels. Only for *_amx.cc. A kernel's entry point holds a MatrixUnit; inside it any product may be taken.
#pragma once

#include "kernels/matrix_unit.h"
#include "kernels/small_gemm_avx512.h"

namespace retort {

// Rows of A lie side by side whichever way k ran, [m][units], and units are padded with zeros to whole tiles on both sides.
struct AmxMode : Bf16Mode {
  static constexpr int kTile = 16;

  static Left<Unit> left_cols(ScratchFrame& frame, const float* x, int64_t ld, int64_t k, int64_t m) {
    const int64_t stride = round_up(k, 32) / 2;
    Unit* out = frame.alloc<Unit>(round_up(m, kTile) * stride);
    for (int64_t j = 0; j < m; j += kTile) {
      for (int64_t u = 0; u < stride; u += kTile) {
        __m512i r[kTile];
        for (int i = 0; i < kTile; ++i) r[i] = unit_row(x, ld, k, u + i, j, m - j);
        transpose(r);
        for (int i = 0; i < kTile; ++i) _mm512_store_si512(out + (j + i) * stride + u, r[i]);
      }
    }
    return {out, stride, 1};
  }
  static Right<Unit> right_rows(ScratchFrame& frame, const float* x, int64_t ld, int64_t k, int64_t n) {
    return Bf16Mode::right_rows(frame, x, ld, k, n, round_up(k, 32) / 2);
  }
};

// Blocks of up to 32 rows and 32 columns: two tiles of A (registers 4, 5) and two of B (6, 7) make four of C (0 to 3).
template <>
struct Gemm<AmxMode> {
  using Unit = AmxMode::Unit;
  static constexpr int kTile = AmxMode::kTile, kPanel = AmxMode::kPanel;

  // A tile of C at (16 r, 16 v) of a block, in its place or, where it hangs over the edge, beside it.
  struct Place {
    float* c;
    int64_t ld;
    int rows, columns;
    alignas(64) float beside[kTile * kTile];

    Place(float* block, int64_t ldc, int64_t m, int64_t n, int r, int v)
        : c(block + r * kTile * ldc + v * kTile), ld(ldc), rows(int(std::min<int64_t>(kTile, m - r * kTile))),
          columns(int(std::min<int64_t>(kTile, n - v * kTile))) {}
    bool whole() const { return rows == kTile && columns == kTile; }
    float* begin(bool add) {
      if (whole()) return c;
      for (int i = 0; add && i < rows; ++i) std::copy(c + i * ld, c + i * ld + columns, beside + i * kTile);
      return beside;
    }
    int64_t stride() const { return (whole() ? ld : kTile) * int64_t(sizeof(float)); }
    void end() {
      for (int i = 0; !whole() && i < rows; ++i) std::copy(beside + i * kTile, beside + i * kTile + columns, c + i * ld);
    }
  };

#define RETORT_TILE_BEGIN(T, R, V)                                   \
  do {                                                               \
    if (add) {                                                       \
      Place place(c, ldc, m, n, R, V);                               \
      const float* from = place.begin(true);                         \
      asm volatile("" ::: "memory");                                 \
      _tile_loadd(T, from, place.stride());                          \
    } else {                                                         \
      _tile_zero(T);                                                 \
    }                                                                \
  } while (0)
#define RETORT_TILE_END(T, R, V)               \
  do {                                         \
    Place place(c, ldc, m, n, R, V);           \
    _tile_stored(T, place.begin(false), place.stride()); \
    place.end();                               \
  } while (0)

  template <bool kRows2, bool kColumns2>
  static void block(int64_t units, const Unit* a, int64_t row_stride, const Unit* b, float* c, int64_t ldc, int64_t m, int64_t n, bool add) {
    RETORT_TILE_BEGIN(0, 0, 0);
    if constexpr (kColumns2) RETORT_TILE_BEGIN(1, 0, 1);
    if constexpr (kRows2) RETORT_TILE_BEGIN(2, 1, 0);
    if constexpr (kRows2 && kColumns2) RETORT_TILE_BEGIN(3, 1, 1);
    const int64_t a_stride = row_stride * int64_t(sizeof(Unit)), b_stride = kPanel * int64_t(sizeof(Unit));
    for (int64_t u = 0; u < units; u += kTile) {
      _tile_loadd(4, a + u, a_stride);
      _tile_loadd(6, b + u * kPanel, b_stride);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (kColumns2) {
        _tile_loadd(7, b + u * kPanel + kTile, b_stride);
        _tile_dpbf16ps(1, 4, 7);
      }
      if constexpr (kRows2) {
        _tile_loadd(5, a + u + kTile * row_stride, a_stride);
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (kColumns2) _tile_dpbf16ps(3, 5, 7);
      }
    }
    RETORT_TILE_END(0, 0, 0);
    if constexpr (kColumns2) RETORT_TILE_END(1, 0, 1);
    if constexpr (kRows2) RETORT_TILE_END(2, 1, 0);
    if constexpr (kRows2 && kColumns2) RETORT_TILE_END(3, 1, 1);
  }
#undef RETORT_TILE_BEGIN
#undef RETORT_TILE_END

  // As Gemm's, with its promise: tiles round outwards, here to 32 rows, 16 columns and 32 of k.
  template <class Columns, class Ks>
  static void run(int64_t m, Left<Unit> a, Right<Unit> b, float* c, int64_t ldc, bool add, Columns columns, Ks ks) {
    asm volatile("" ::: "memory");  // the intrinsics do not say that they read
    for (int64_t n0 = 0; n0 < columns.n; n0 += kPanel) {
      const Unit* panel = b.p + n0 * b.k;
      for (int64_t row = 0; row < m; row += 2 * kTile) {
        const int64_t rows = std::min<int64_t>(2 * kTile, m - row), last_row = row + rows - 1;
        const int64_t begin = std::max<int64_t>(n0, columns.first(row) / kTile * kTile);
        const int64_t end = std::min<int64_t>({n0 + kPanel, columns.n, round_up(columns.last(last_row), kTile)});
        const int64_t u0 = ks.first(row) / 32 * kTile, u1 = round_up(ks.last(last_row), 32) / 2;
        const Unit* left = a.p + row * a.row_stride + u0;
        for (int64_t j = begin; j < end; j += 2 * kTile) {
          const int64_t width = std::min<int64_t>(2 * kTile, end - j);
          const auto go = [&]<bool kRows2, bool kColumns2>() {
            block<kRows2, kColumns2>(std::max<int64_t>(0, u1 - u0), left, a.row_stride, panel + u0 * kPanel + (j - n0), c + row * ldc + j, ldc,
                                     rows, width, add);
          };
          if (rows > kTile) width > kTile ? go.template operator()<true, true>() : go.template operator()<true, false>();
          else width > kTile ? go.template operator()<false, true>() : go.template operator()<false, false>();
          rows_ahead.fetch(kRowsAhead);
        }
      }
    }
  }
  static void run(int64_t m, int64_t n, int64_t k, Left<Unit> a, Right<Unit> b, float* c, int64_t ldc, bool add) {
    run(m, a, b, c, ldc, add, Everything{n}, Everything{k});
  }
  // A chunk of 64 by 64 takes about ten times fewer blocks than Gemm's tiles.
  static constexpr int kRowsAhead = 120;
};

}  // namespace retort
