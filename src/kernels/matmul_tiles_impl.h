// matmul_tiles.h for a simd struct S. Layer: kernels. Included by matmul_tiles_*.cc only.
#pragma once

#include "kernels/matmul_tiles.h"

namespace retort {

// A row block is only a page or two, too short for the hardware's prefetchers to get going: the first tile of a pair of blocks asks for
// the next pair while it reads this one.
inline void prefetch_lines(const std::byte* p, int bytes) {
#pragma GCC unroll 8
  for (int i = 0; i < bytes; i += 64) __builtin_prefetch(p + i, 0, 3);
}

// Where the sums of two blocks do not fit the registers together, Tile takes one block after the other.
template <class S, class Tile, int RB, int TB>
void run_blocks(const TileArgs& a) {
  if constexpr (RB * TB <= S::kTileSums) {
    Tile::template run<RB, TB>(a);
  } else {
    for (int r = 0; r < RB; ++r) {
      TileArgs one = a;
      one.block[0] = a.block[r];
      one.out = a.out + r * TB * 16;
      Tile::template run<1, TB>(one);
    }
  }
}

template <class S, bool kU4, bool kF32Scale, bool kMin, int kOffset, int kGroup>
struct QuantisedTile {
  using F = typename S::F;
  using I = typename S::I;
  using Dot = std::conditional_t<kU4, typename S::Dot4, typename S::Dot8>;
  static constexpr int kLevelBytes = kU4 ? 256 : 512;  // per 32 columns of 16 rows
  static constexpr int kParts = 32 / kGroup;           // scales per 32 columns
  static constexpr int kShift = kOffset == 16 ? 1 : kOffset == 32 ? 2 : kOffset == 128 ? 4 : 0;

  static F load_scale(const std::byte* p, int64_t i) {
    if constexpr (kF32Scale) return S::load(reinterpret_cast<const float*>(p) + 16 * i);
    else return S::load_f16(reinterpret_cast<const uint16_t*>(p) + 16 * i);
  }

  template <int RB, int TB>
  static void run(const TileArgs& a) {
    F acc[RB][TB];
#pragma GCC unroll 8
    for (int r = 0; r < RB; ++r)
#pragma GCC unroll 8
      for (int t = 0; t < TB; ++t) acc[r][t] = S::zero();
    const int64_t groups = a.columns / 32;
    for (int64_t g = 0; g < groups; ++g) {
      if (TB == 1 || a.ahead != 0) {
#pragma GCC unroll 2
        for (int r = 0; r < RB; ++r) {
          constexpr int kScaleBytes = 16 * (kF32Scale ? 4 : 2) * kParts;
          prefetch_lines(a.block[r] + a.ahead + g * kLevelBytes, kLevelBytes);
          prefetch_lines(a.block[r] + a.ahead + a.scales + g * kScaleBytes, kScaleBytes);
          if constexpr (kMin) prefetch_lines(a.block[r] + a.ahead + a.mins + g * kScaleBytes, kScaleBytes);
        }
      }
#pragma GCC unroll 2
      for (int part = 0; part < kParts; ++part) {
        Dot dot[RB][TB];
        I base[TB];
#pragma GCC unroll 8
        for (int t = 0; t < TB; ++t) {
          base[t] = start_value(a, t, g, part);
#pragma GCC unroll 2
          for (int r = 0; r < RB; ++r) S::start(dot[r][t], base[t]);
        }
        products<RB, TB>(a, g, part, dot);
#pragma GCC unroll 2
        for (int r = 0; r < RB; ++r) {
          const F d = load_scale(a.block[r] + a.scales, g * kParts + part);
          F m;
          if constexpr (kMin) m = load_scale(a.block[r] + a.mins, g);
#pragma GCC unroll 8
          for (int t = 0; t < TB; ++t) {
            const F scale = S::mul(d, S::set1(a.q_scale[g * a.group_stride + t]));
            acc[r][t] = S::fma(scale, S::to_float(S::finish(dot[r][t], base[t])), acc[r][t]);
            if constexpr (kMin) acc[r][t] = S::fma(m, S::set1(a.q_min[g * a.group_stride + t]), acc[r][t]);
          }
        }
      }
    }
#pragma GCC unroll 2
    for (int r = 0; r < RB; ++r)
#pragma GCC unroll 8
      for (int t = 0; t < TB; ++t) S::store(a.out + (r * TB + t) * 16, acc[r][t]);
  }

  // sum(x (q - offset)) = sum(x q) - offset sum(x), all in integers.
  static I start_value(const TileArgs& a, int t, int64_t g, int part) {
    if constexpr (kOffset == 0) return S::iset1(0);
    else {
      const int32_t* s = a.q_sum8 + 2 * (g * a.group_stride + t);
      return S::template shift_left<kShift>(S::iset1(kParts == 2 ? s[part] : s[0] + s[1]));
    }
  }

  template <int RB, int TB>
  static void products(const TileArgs& a, int64_t g, int part, Dot (&dot)[RB][TB]) {
    const int8_t* x = a.q + g * 32 + part * kGroup;
    constexpr int kLoads = kLevelBytes / 64 / kParts;
#pragma GCC unroll 8
    for (int j = 0; j < kLoads; ++j) {
      typename S::Levels w[RB];
#pragma GCC unroll 2
      for (int r = 0; r < RB; ++r) w[r] = S::load_levels(a.block[r] + g * kLevelBytes + (part * kLoads + j) * 64);
#pragma GCC unroll 2
      for (int half = 0; half < (kU4 ? 2 : 1); ++half) {
        typename S::Levels v[RB];
#pragma GCC unroll 2
        for (int r = 0; r < RB; ++r) v[r] = !kU4 ? w[r] : half == 0 ? S::low(w[r]) : S::high(w[r]);
#pragma GCC unroll 8
        for (int t = 0; t < TB; ++t)
#pragma GCC unroll 2
          for (int r = 0; r < RB; ++r) S::step(dot[r][t], v[r], x + t * a.q_stride + (kU4 ? 8 * j + 4 * half : 4 * j));
      }
    }
  }
};

enum class FloatWeight { kF32, kF16, kBf16, kBf16Dot };

template <class S, FloatWeight kWeight>
struct FloatTile {
  using F = typename S::F;
  template <int RB, int TB>
  static void run(const TileArgs& a) {
    F acc[RB][TB];
#pragma GCC unroll 2
    for (int r = 0; r < RB; ++r)
#pragma GCC unroll 8
      for (int t = 0; t < TB; ++t) acc[r][t] = S::zero();
    constexpr int kStep = kWeight == FloatWeight::kBf16 || kWeight == FloatWeight::kBf16Dot ? 2 : 1;
    for (int64_t k = 0; k < a.columns; k += kStep) {
      if (TB == 1 || a.ahead != 0) {
#pragma GCC unroll 2
        for (int r = 0; r < RB; ++r)
          prefetch_lines(a.block[r] + a.ahead + k * 16 * (kWeight == FloatWeight::kF32 ? 4 : 2), 64);
      }
      step<RB, TB>(a, k, acc);
    }
#pragma GCC unroll 2
    for (int r = 0; r < RB; ++r)
#pragma GCC unroll 8
      for (int t = 0; t < TB; ++t) S::store(a.out + (r * TB + t) * 16, acc[r][t]);
  }

  template <int RB, int TB>
  static void step(const TileArgs& a, int64_t k, F (&acc)[RB][TB]) {
    F w[RB], odd[RB];
#pragma GCC unroll 2
    for (int r = 0; r < RB; ++r) {
      const auto* halves = reinterpret_cast<const uint16_t*>(a.block[r]) + 16 * k;
      if constexpr (kWeight == FloatWeight::kF32) w[r] = S::load(reinterpret_cast<const float*>(a.block[r]) + 16 * k);
      if constexpr (kWeight == FloatWeight::kF16) w[r] = S::load_f16(halves);
      if constexpr (kWeight == FloatWeight::kBf16) S::load_bf16_pairs(halves, w[r], odd[r]);
    }
#pragma GCC unroll 8
    for (int t = 0; t < TB; ++t) {
#pragma GCC unroll 2
      for (int r = 0; r < RB; ++r) {
        if constexpr (kWeight == FloatWeight::kBf16Dot) {
          acc[r][t] = S::dot_bf16(acc[r][t], reinterpret_cast<const uint16_t*>(a.block[r]) + 16 * k,
                                  a.x_bf16 + t * a.x_stride + k);
        } else {
          acc[r][t] = S::fma(w[r], S::set1(a.x[t * a.x_stride + k]), acc[r][t]);
          if constexpr (kWeight == FloatWeight::kBf16)
            acc[r][t] = S::fma(odd[r], S::set1(a.x[t * a.x_stride + k + 1]), acc[r][t]);
        }
      }
    }
  }
};

template <class S>
void quantise_row(const float* x, int64_t columns, ptrdiff_t group_stride, int8_t* q, float* scale, float* min, int32_t* sum8) {
  for (int64_t g = 0; 32 * g < columns; ++g) {
    const int64_t n = columns - 32 * g < 32 ? columns - 32 * g : 32;
    const float* p = x + 32 * g;
    const auto a = n >= 16 ? S::load(p) : S::load_part(p, int(n));
    const auto b = n == 32 ? S::load(p + 16) : n > 16 ? S::load_part(p + 16, int(n - 16)) : S::zero();
    const float most = S::max_of(S::max(S::abs(a), S::abs(b)));
    const auto inverse = S::set1(most > 0 ? 127.0f / most : 0.0f);
    const auto qa = S::round(S::mul(a, inverse)), qb = S::round(S::mul(b, inverse));
    S::store_s8(q + 32 * g, qa);
    S::store_s8(q + 32 * g + 16, qb);
    // Of the stored bytes, which differ from qa, qb where x was not finite.
    const int32_t first = S::sum_s8(q + 32 * g), second = S::sum_s8(q + 32 * g + 16);
    const int64_t at = g * group_stride;
    scale[at] = most / 127.0f;
    min[at] = scale[at] * float(first + second);
    sum8[2 * at] = -8 * first;
    sum8[2 * at + 1] = -8 * second;
  }
}

template <class S>
void row_to_bf16(const float* x, int64_t columns, uint16_t* out) {
  int64_t i = 0;
  for (; i + 16 <= columns; i += 16) S::store_bf16(out + i, S::load(x + i));
  if (i < columns) {
    uint16_t last[16];
    S::store_bf16(last, S::load_part(x + i, int(columns - i)));
    for (int64_t j = i; j < columns; ++j) out[j] = last[j - i];
  }
}

template <class S>
const MatmulTiles& matmul_tiles() {
#define RETORT_ROW(T, RB) {&run_blocks<S, T, RB, 1>, &run_blocks<S, T, RB, 2>, &run_blocks<S, T, RB, 4>, &run_blocks<S, T, RB, 6>, nullptr}
#define RETORT_KIND(T) {RETORT_ROW(T, 1), RETORT_ROW(T, 2)}
  using U4F16Offset = QuantisedTile<S, true, false, false, 8, 32>;
  using U4F16Min = QuantisedTile<S, true, false, true, 0, 32>;
  using U4F32Min = QuantisedTile<S, true, true, true, 0, 32>;
  using U8F16Offset16 = QuantisedTile<S, false, false, false, 16, 32>;
  using U8F16Offset128 = QuantisedTile<S, false, false, false, 128, 32>;
  using U8F16Min = QuantisedTile<S, false, false, true, 0, 32>;
  using U8F32Min = QuantisedTile<S, false, true, true, 0, 32>;
  using U8By16 = QuantisedTile<S, false, true, false, 32, 16>;
  using Bf16 = FloatTile<S, FloatWeight::kBf16>;
  using Bf16Dot = FloatTile<S, FloatWeight::kBf16Dot>;
  using F16 = FloatTile<S, FloatWeight::kF16>;
  using F32 = FloatTile<S, FloatWeight::kF32>;
  static const MatmulTiles tiles = {
      {RETORT_KIND(U4F16Offset), RETORT_KIND(U4F16Min), RETORT_KIND(U4F32Min), RETORT_KIND(U8F16Offset16),
       RETORT_KIND(U8F16Offset128), RETORT_KIND(U8F16Min), RETORT_KIND(U8F32Min), RETORT_KIND(U8By16), RETORT_KIND(Bf16),
       RETORT_KIND(Bf16Dot), RETORT_KIND(F16), RETORT_KIND(F32)},
      &quantise_row<S>,
      &row_to_bf16<S>};
#undef RETORT_KIND
#undef RETORT_ROW
  return tiles;
}

}  // namespace retort
