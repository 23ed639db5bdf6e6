// Products of a prompt's tokens on the matrix unit (AMX-BF16): weights and activations rounded to bf16, sums in fp32.
//
// Layer: kernels. Only for matmul_tiles_amx.cc.
//
// Signed bytes with a scale for every 32 columns leave most of the work to vectors: each group's sum has to be scaled by itself. Here
// the scale goes into the weights, once for all tokens, and the unit does the rest. A bf16 is within 2^-9 of its number, where a signed
// byte is within 1/254 of its group's largest.
#pragma once

#include <algorithm>

#include "kernels/matmul_tiles_impl.h"
#include "kernels/matrix_unit.h"
#include "kernels/rounding.h"
#include "kernels/scratch.h"
#include "kernels/simd_avx512.h"

namespace retort {

// Levels of matmul_tiles.h's kinds, as numbers.
template <bool kU4, bool kF32Scale, bool kMin, int kOffset, int kGroup>
struct LevelWeights {
  using Plain = QuantisedTile<Avx512, kU4, kF32Scale, kMin, kOffset, kGroup>;

  // 16 rows of 32 columns, from group g on, to [columns / 2][16 rows][2]: 1 KB.
  static void to_bf16(const TileArgs& a, const std::byte* block, int64_t g, std::byte* out) {
    for (int part = 0; part < Plain::kParts; ++part) {
      const __m512 d = Plain::load_scale(block + a.scales, g * Plain::kParts + part);
      const __m512 m = kMin ? Plain::load_scale(block + a.mins, g) : _mm512_mul_ps(d, _mm512_set1_ps(-kOffset));
      constexpr int kLoads = Plain::kLevelBytes / 64 / Plain::kParts;
#pragma GCC unroll 8
      for (int j = 0; j < kLoads; ++j) {
        const __m512i v = _mm512_loadu_si512(block + g * Plain::kLevelBytes + (part * kLoads + j) * 64);
        std::byte* to = out + (part * kLoads + j) * (kU4 ? 256 : 128);
        if constexpr (kU4) nibbles(v, d, _mm512_fnmadd_ps(d, _mm512_set1_ps(128), m), to);
        else bytes(v, d, m, to);
      }
    }
  }

 private:
  static void put(std::byte* out, __m512 first, __m512 second) { _mm512_store_si512(out, Avx512::bf16_pairs(first, second)); }
  // A nibble in the right place is the float 128 + its level.
  static void nibbles(__m512i v, __m512 d, __m512 m, std::byte* out) {
    const auto number = [&](__m512i shifted) {
      const __m512i level = _mm512_and_si512(shifted, _mm512_set1_epi32(0x000f0000));
      return _mm512_fmadd_ps(d, _mm512_castsi512_ps(_mm512_or_si512(level, _mm512_set1_epi32(0x43000000))), m);
    };
    put(out, number(_mm512_slli_epi32(v, 16)), number(_mm512_slli_epi32(v, 8)));
    put(out + 64, number(v), number(_mm512_srli_epi32(v, 8)));
    put(out + 128, number(_mm512_slli_epi32(v, 12)), number(_mm512_slli_epi32(v, 4)));
    put(out + 192, number(_mm512_srli_epi32(v, 4)), number(_mm512_srli_epi32(v, 12)));
  }
  static void bytes(__m512i v, __m512 d, __m512 m, std::byte* out) {
    const auto number = [&](__m512i shifted) {
      return _mm512_fmadd_ps(d, _mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(255))), m);
    };
    put(out, number(v), number(_mm512_srli_epi32(v, 8)));
    put(out + 64, number(_mm512_srli_epi32(v, 16)), number(_mm512_srli_epi32(v, 24)));
  }
};

template <class Weights>
struct PromptTile {
  static constexpr int64_t kSlab = 512;  // columns of two blocks whose bf16s stay in the first-level cache

  template <int RB>
  static void run(const TileArgs& a) {
    const MatrixUnit unit;
    ScratchFrame frame;
    const int64_t groups = a.columns / 32, slabs = ceil_div(a.columns, kSlab), per = ceil_div(groups, slabs);
    std::byte* weights = frame.alloc<std::byte>(RB * per * 1024);
    for (int64_t first = 0; first < groups; first += per) {
      const int64_t count = std::min(per, groups - first);
      for (int r = 0; r < RB; ++r)
        for (int64_t g = 0; g < count; ++g) Weights::to_bf16(a, a.block[r], first + g, weights + (r * per + g) * 1024);
      asm volatile("" ::: "memory");
      for (int64_t t = 0; t < a.tokens; t += 32) {
        if (t + 16 < a.tokens) tokens<RB, 2>(a, t, first, count, weights, weights + per * 1024);
        else tokens<RB, 1>(a, t, first, count, weights, weights + per * 1024);
      }
    }
  }

  // 32 tokens or 16, against columns 32 first.. of RB blocks: added to what stands in out, from the second slab on.
  template <int RB, int TB>
  static void tokens(const TileArgs& a, int64_t t, int64_t first, int64_t count, const std::byte* w0, const std::byte* w1) {
    float *c0 = a.out + t * 16, *c1 = c0 + a.tokens * 16;
    const uint16_t* x0 = a.x_bf16 + (t / 16 * a.columns + 32 * first) * 16;
    const uint16_t* x1 = x0 + a.columns * 16;
    if (first == 0) {
      _tile_zero(0);
      if constexpr (RB == 2) _tile_zero(1);
      if constexpr (TB == 2) _tile_zero(2);
      if constexpr (RB == 2 && TB == 2) _tile_zero(3);
    } else {
      _tile_loadd(0, c0, 64);
      if constexpr (RB == 2) _tile_loadd(1, c1, 64);
      if constexpr (TB == 2) _tile_loadd(2, c0 + 256, 64);
      if constexpr (RB == 2 && TB == 2) _tile_loadd(3, c1 + 256, 64);
    }
    for (int64_t g = 0; g < count; ++g) {
      _tile_loadd(4, x0 + 512 * g, 64);
      _tile_loadd(6, w0 + 1024 * g, 64);
      _tile_dpbf16ps(0, 4, 6);
      if constexpr (RB == 2) {
        _tile_loadd(7, w1 + 1024 * g, 64);
        _tile_dpbf16ps(1, 4, 7);
      }
      if constexpr (TB == 2) {
        _tile_loadd(5, x1 + 512 * g, 64);
        _tile_dpbf16ps(2, 5, 6);
        if constexpr (RB == 2) _tile_dpbf16ps(3, 5, 7);
      }
    }
    _tile_stored(0, c0, 64);
    if constexpr (RB == 2) _tile_stored(1, c1, 64);
    if constexpr (TB == 2) _tile_stored(2, c0 + 256, 64);
    if constexpr (RB == 2 && TB == 2) _tile_stored(3, c1 + 256, 64);
  }
};

}  // namespace retort
