// Matrix products of a few hundred rows and columns, out of which the recurrence and the windowed attention are made.
//
// Layer: kernels. Templates over a mode (PlainMode, Bf16Mode, AmxMode), included by *_scalar.cc, *_avx2.cc, *_avx512.cc, *_amx.cc, *_neon.cc only.
// Thread-safe.
//
//   C[m, n] (+)= A[m, k] B[k, n]
//
// Operands are lists of "units": one number (f32, f64), or a pair of bf16 that are neighbours along k. A (left) is read by
// broadcasting, so any strides will do; B (right) is packed into panels as wide as a register tile, [panel][k units][kPanel],
// zero-padded, so the inner loop has no tails and reads B from end to end (rows 256 bytes apart cost AVX2 a quarter of its rate). The four pack functions are named after where k runs in the row-major matrix X:
// left_rows, left_cols: X[m, k], X[k, m];   right_rows, right_cols: X[k, n], X[n, k].
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "kernels/rounding.h"
#include "kernels/rows_ahead.h"
#include "kernels/scratch.h"
#include "kernels/simd_math.h"
#include "kernels/simd_scalar.h"

namespace retort {

// Eight doubles, for tests.
struct ScalarDouble {
  struct F { double v[8]; };
  template <class Fn>
  static F map(Fn&& fn) {
    F r;
    for (int i = 0; i < 8; ++i) r.v[i] = fn(i);
    return r;
  }
  static F zero() { return map([](int) { return 0.0; }); }
  static F set1(double x) { return map([&](int) { return x; }); }
  static F load(const double* p) { return map([&](int i) { return p[i]; }); }
  static F load_part(const double* p, int n) { return map([&](int i) { return i < n ? p[i] : 0.0; }); }
  static void store(double* p, F a) { std::memcpy(p, a.v, sizeof a.v); }
  static void store_part(double* p, F a, int n) { std::memcpy(p, a.v, size_t(n) * 8); }
  static F fma(F a, F b, F c) { return map([&](int i) { return a.v[i] * b.v[i] + c.v[i]; }); }
  static F sub(F a, F b) { return map([&](int i) { return a.v[i] - b.v[i]; }); }
  static F mul(F a, F b) { return map([&](int i) { return a.v[i] * b.v[i]; }); }
  static F exp(F a) { return map([&](int i) { return std::exp(a.v[i]); }); }
  static F max(F a, F b) { return map([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
  static double max_of(F a) { return *std::max_element(a.v, a.v + 8); }
  static double sum(F a) {
    double s = 0;
    for (double x : a.v) s += x;
    return s;
  }
};

template <class U>
struct Left {
  const U* p;
  int64_t row_stride, k_stride;  // in units
};

template <class U>
struct Right {
  const U* p;
  int64_t k;  // units in a panel's column
};

// Modes whose unit is one number.
template <class SimdType, class RealType, int kLaneCount, int kVectors>
struct PlainMode {
  using Simd = SimdType;
  using Real = RealType;
  using Unit = RealType;
  static constexpr int kLanes = kLaneCount;
  static constexpr int kVecs = kVectors;  // vectors of a register tile
  static constexpr int kRows = 6;         // rows of a register tile
  static constexpr int kPanel = kVectors * kLaneCount;
  static constexpr int kPerUnit = 1;
  using F = typename Simd::F;
  static F load_b(const Unit* p) { return Simd::load(p); }
  static F broadcast(const Unit* p) { return Simd::set1(*p); }
  static F step(F acc, F a, F b) { return Simd::fma(a, b, acc); }

  static Left<Unit> left_rows(ScratchFrame&, const Real* x, int64_t ld, int64_t, int64_t) { return {x, ld, 1}; }
  static Left<Unit> left_cols(ScratchFrame&, const Real* x, int64_t ld, int64_t, int64_t) { return {x, 1, ld}; }
  static Right<Unit> right_rows(ScratchFrame& frame, const Real* x, int64_t ld, int64_t k, int64_t n) {
    Unit* out = frame.alloc<Unit>(round_up(n, kPanel) * k);
    const int64_t whole = n / kPanel * kPanel;
    for (int64_t i = 0; i < k; ++i) {
      const Real* row = x + i * ld;
      for (int64_t n0 = 0; n0 < whole; n0 += kPanel)
        for (int64_t j = 0; j < kPanel; j += kLanes) Simd::store(out + n0 * k + i * kPanel + j, Simd::load(row + n0 + j));
      for (int64_t j = whole; j < round_up(n, kPanel); ++j) out[whole * k + i * kPanel + j - whole] = j < n ? row[j] : 0;
    }
    return {out, k};
  }
  static Right<Unit> right_cols(ScratchFrame& frame, const Real* x, int64_t ld, int64_t n, int64_t k) {
    Unit* out = frame.alloc<Unit>(round_up(n, kPanel) * k);
    for (int64_t n0 = 0; n0 < n; n0 += kPanel) {
      for (int64_t j = 0; j < kPanel; j += 8) transpose_part(x + (n0 + j) * ld, ld, std::clamp<int64_t>(n - n0 - j, 0, 8), k, out + n0 * k + j);
    }
    return {out, k};
  }

 private:
  // x[rows, k] to out[k, 8 of a panel], rows beyond `rows` as zeros.
  static void transpose_part(const Real* x, int64_t ld, int64_t rows, int64_t k, Unit* out) {
    int64_t i = 0;
    if constexpr (requires { Simd::transpose8(x, ld, out, int64_t(kPanel)); }) {
      for (; rows == 8 && i + 8 <= k; i += 8) Simd::transpose8(x + i, ld, out + i * kPanel, kPanel);
    }
    for (; i < k; ++i)
      for (int64_t j = 0; j < 8; ++j) out[i * kPanel + j] = j < rows ? x[j * ld + i] : 0;
  }
};

// Which part of the product a tile of rows needs. first and last are matrix columns (or k) as a function of the tile's rows.
struct Everything {
  int64_t n;
  int64_t first(int64_t) const { return 0; }
  int64_t last(int64_t) const { return n; }
};
// Row i: up to and including i + offset.
struct UpTo {
  int64_t n;
  int64_t offset = 0;
  int64_t first(int64_t) const { return 0; }
  int64_t last(int64_t last_row) const { return std::max<int64_t>(0, std::min(n, last_row + offset + 1)); }
};
// Row i: from i on.
struct From {
  int64_t n;
  int64_t first(int64_t row) const { return row; }
  int64_t last(int64_t) const { return n; }
};
// Row i: from i + low to i + high, both included.
struct Band {
  int64_t n, low, high;
  int64_t first(int64_t row) const { return std::clamp<int64_t>(row + low, 0, n); }
  int64_t last(int64_t last_row) const { return std::clamp<int64_t>(last_row + high + 1, 0, n); }
};

template <class M>
struct Gemm {
  using Real = typename M::Real;
  using Unit = typename M::Unit;
  using S = typename M::Simd;
  using F = typename M::F;
  static constexpr int kPanel = M::kPanel;

  // R rows, NV vectors of columns; the last vector has `tail` columns.
  template <int R, int NV>
  static void tile(int64_t k, const Unit* a, int64_t row_stride, int64_t k_stride, const Unit* b, Real* c, int64_t ldc,
                   int tail, bool add) {
    F acc[R][NV];
    const auto column = [&](int r, int v) { return c + r * ldc + v * M::kLanes; };
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        if (!add) acc[r][v] = S::zero();
        else acc[r][v] = v + 1 < NV || tail == M::kLanes ? S::load(column(r, v)) : S::load_part(column(r, v), tail);
      }
    }
    for (int64_t i = 0; i < k; ++i) {
      F w[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) w[v] = M::load_b(b + v * M::kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const F x = M::broadcast(a + r * row_stride);
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) acc[r][v] = M::step(acc[r][v], x, w[v]);
      }
      a += k_stride;
      b += kPanel;
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        if (v + 1 < NV || tail == M::kLanes) S::store(column(r, v), acc[r][v]);
        else S::store_part(column(r, v), acc[r][v], tail);
      }
    }
  }

  // Rows asked for with each tile: a chunk of 64 by 64 takes 35 tiles of 64 columns forward and reads or writes 256 rows; 11 and 128, 90 and 512
  // backward.
  static constexpr int kRowsAhead = std::max(1, 12 * kPanel / 64);

  using TileFn = void (*)(int64_t, const Unit*, int64_t, int64_t, const Unit*, Real*, int64_t, int, bool);

  template <int R>
  static TileFn pick(int vecs) {
    if constexpr (M::kVecs == 1) return &tile<R, 1>;
    else return vecs == 1 ? &tile<R, 1> : vecs == 2 ? &tile<R, 2> : vecs == 3 ? &tile<R, 3> : &tile<R, 4>;
  }
  static TileFn pick(int rows, int vecs) {
    switch (rows) {
      case 1: return pick<1>(vecs);
      case 2: return pick<2>(vecs);
      case 3: return pick<3>(vecs);
      case 4: return pick<4>(vecs);
      case 5: return pick<5>(vecs);
      default: return pick<6>(vecs);
    }
  }

  // `columns` and `ks` say which columns of C and which part of k each row needs; what a row does not need is not written
  // (columns), or taken as zero (ks), except that tiles round outwards.
  template <class Columns, class Ks>
  static void run(int64_t m, Left<Unit> a, Right<Unit> b, Real* c, int64_t ldc, bool add, Columns columns, Ks ks) {
    static_assert(M::kRows == 6);
    for (int64_t n0 = 0; n0 < columns.n; n0 += kPanel) {
      const Unit* panel = b.p + n0 * b.k;
      for (int64_t row = 0; row < m; row += M::kRows) {
        const int rows = int(std::min<int64_t>(M::kRows, m - row));
        const int64_t last_row = row + rows - 1;
        const int64_t begin = std::max<int64_t>(n0, columns.first(row) / M::kLanes * M::kLanes);
        const int64_t end = std::min<int64_t>({n0 + kPanel, columns.n, round_up(columns.last(last_row), M::kLanes)});
        const int64_t k0 = ks.first(row) / M::kPerUnit;
        const int64_t k1 = (ks.last(last_row) + M::kPerUnit - 1) / M::kPerUnit;
        const Unit* left = a.p + row * a.row_stride + k0 * a.k_stride;
        for (int64_t j = begin; j < end; j += M::kVecs * M::kLanes) {
          const int vecs = int(std::min<int64_t>(M::kVecs, (end - j + M::kLanes - 1) / M::kLanes));
          const int tail = int(std::min<int64_t>(end - j, int64_t(vecs) * M::kLanes) - (vecs - 1) * M::kLanes);
          pick(rows, vecs)(std::max<int64_t>(0, k1 - k0), left, a.row_stride, a.k_stride, panel + k0 * kPanel + (j - n0),
                           c + row * ldc + j, ldc, tail, add);
          rows_ahead.fetch(kRowsAhead);
        }
      }
    }
  }
  static void run(int64_t m, int64_t n, int64_t k, Left<Unit> a, Right<Unit> b, Real* c, int64_t ldc, bool add) {
    run(m, a, b, c, ldc, add, Everything{n}, Everything{k});
  }
};

template <class M>
typename M::Real dot(const typename M::Real* a, const typename M::Real* b, int64_t n) {
  using S = typename M::Simd;
  auto acc = S::zero();
  int64_t i = 0;
  for (; i + M::kLanes <= n; i += M::kLanes) acc = S::fma(S::load(a + i), S::load(b + i), acc);
  if (i < n) acc = S::fma(S::load_part(a + i, int(n - i)), S::load_part(b + i, int(n - i)), acc);
  return S::sum(acc);
}
template <class M>
typename M::Real sum_of(const typename M::Real* a, int64_t n) {
  using S = typename M::Simd;
  const auto one = S::set1(1);
  auto acc = S::zero();
  int64_t i = 0;
  for (; i + M::kLanes <= n; i += M::kLanes) acc = S::fma(S::load(a + i), one, acc);
  if (i < n) acc = S::fma(S::load_part(a + i, int(n - i)), one, acc);
  return S::sum(acc);
}
// y += a x
template <class M>
void axpy(typename M::Real a, const typename M::Real* x, typename M::Real* y, int64_t n) {
  using S = typename M::Simd;
  const auto factor = S::set1(a);
  int64_t i = 0;
  for (; i + M::kLanes <= n; i += M::kLanes) S::store(y + i, S::fma(factor, S::load(x + i), S::load(y + i)));
  if (i < n) S::store_part(y + i, S::fma(factor, S::load_part(x + i, int(n - i)), S::load_part(y + i, int(n - i))), int(n - i));
}

// Elementwise loops over whole vectors and a rest.
template <class M>
struct Lanes {
  using T = typename M::Real;
  using F = typename M::F;
  using S = typename M::Simd;
  static F load(const T* p, int n) { return n == M::kLanes ? S::load(p) : S::load_part(p, n); }
  static void store(T* p, F x, int n) {
    if (n == M::kLanes) S::store(p, x);
    else S::store_part(p, x, n);
  }
  template <class Fn>
  static void each(int64_t n, Fn&& fn) {  // fn(first, count)
    int64_t i = 0;
    for (; i + M::kLanes <= n; i += M::kLanes) fn(i, M::kLanes);
    if (i < n) fn(i, int(n - i));
  }
  static F exp(F x) {
    if constexpr (std::is_same_v<T, float>) return SimdMath<S>::exp(x);
    else return S::exp(x);
  }
  // out = exp(a - b)
  static void exp_difference(const T* a, const T* b, T* out, int64_t n) {
    each(n, [&](int64_t i, int m) { store(out + i, exp(S::sub(load(a + i, m), load(b + i, m))), m); });
  }
  // out = x exp(a - b)
  static void decayed(const T* x, const T* a, const T* b, T* out, int64_t n) {
    each(n, [&](int64_t i, int m) {
      store(out + i, S::mul(load(x + i, m), exp(S::sub(load(a + i, m), load(b + i, m)))), m);
    });
  }
  // out += x exp(a - b)
  static void add_decayed(const T* x, const T* a, const T* b, T* out, int64_t n) {
    each(n, [&](int64_t i, int m) {
      store(out + i, S::fma(load(x + i, m), exp(S::sub(load(a + i, m), load(b + i, m))), load(out + i, m)), m);
    });
  }
  // out = a b
  static void product(const T* a, const T* b, T* out, int64_t n) {
    each(n, [&](int64_t i, int m) { store(out + i, S::mul(load(a + i, m), load(b + i, m)), m); });
  }
  // out = a x
  static void scaled(const T* x, T a, T* out, int64_t n) {
    each(n, [&](int64_t i, int m) { store(out + i, S::mul(load(x + i, m), S::set1(a)), m); });
  }
  // out += a b
  static void add_product(const T* a, const T* b, T* out, int64_t n) {
    each(n, [&](int64_t i, int m) { store(out + i, S::fma(load(a + i, m), load(b + i, m), load(out + i, m)), m); });
  }
  // Subtracts the products a b from `less` and returns their sum.
  static T move_products(const T* a, const T* b, T* less, int64_t n) {
    const F one = S::set1(1);
    F sum = S::zero();
    each(n, [&](int64_t i, int m) {
      const F x = S::mul(load(a + i, m), load(b + i, m));
      store(less + i, S::sub(load(less + i, m), x), m);
      sum = S::fma(x, one, sum);
    });
    return S::sum(sum);
  }
  static void exp_all(const T* x, T* out, int64_t n) {
    each(n, [&](int64_t i, int m) { store(out + i, exp(load(x + i, m)), m); });
  }
};

}  // namespace retort
