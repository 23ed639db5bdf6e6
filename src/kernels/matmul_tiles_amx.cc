// matmul_tiles.h on the matrix unit (AMX-INT8): AVX-512's tiles, and tiles of many tokens whose integer products the unit makes.
// Layer: kernels.
#include "kernels/matmul_tiles_impl.h"

#if defined(__AMX_INT8__) || defined(__AMXINT8__)  // gcc, clang
#include <algorithm>

#include "kernels/matmul_prompts_amx.h"

namespace retort {
namespace {

using S = Avx512;
constexpr int kTokens = kTileTokens[kTileSizes - 1];  // a register's rows

// Registers 0 to 3 hold sums, in turn, so that one tile's products run beside the next one's; 4 and 5 tokens, in turn; 6 and 7 the levels
// of the two row blocks.
constexpr TileConfig kHalfDeepTiles = {.row_bytes = {64, 64, 64, 64, 32, 32, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 8, 8}};

void enter() { _tile_loadconfig(&kHalfDeepTiles); }
void leave() { _tile_release(); }

// Exact sums of sixteen tokens and sixteen rows over 32 columns: [token][row].
#define RETORT_MULTIPLY(SUM, X, W, OUT)                  \
  do {                                                   \
    _tile_zero(SUM);                                     \
    if constexpr (kOffset != 0) _tile_dpbssd(SUM, X, W); \
    else _tile_dpbsud(SUM, X, W);                        \
    _tile_stored(SUM, OUT, 64);                          \
  } while (0)

// The order of float operations is QuantisedTile's, and integers have none: the same bits.
template <bool kU4, bool kF32Scale, bool kMin, int kOffset, int kGroup>
struct AmxTile {
  using Plain = QuantisedTile<S, kU4, kF32Scale, kMin, kOffset, kGroup>;
  static constexpr int kParts = Plain::kParts;
  static constexpr int kAhead = 2, kBuffers = 4;  // parts that are spread before they are multiplied
  static constexpr int kBehind = 2, kSums = 4;    // tiles that are multiplied before their sums are read

  // What is under way: levels as the unit wants them, and sums that wait for their scales.
  template <int RB>
  struct Scratch {
    alignas(64) std::byte levels[kBuffers][RB][512];  // [columns / 4][16 rows][4 columns]
    alignas(64) int32_t sums[kSums][RB][kTokens * 16];
  };

  // Levels of one part, a byte each, less their offset. A part of 16 columns stands among 32, the others of which are zero.
  static void spread(const std::byte* block, int64_t part, std::byte* out) {
    const __m512i offset = _mm512_set1_epi8(char(kOffset));
    const auto put = [&](int i, __m512i v) { _mm512_store_si512(out + 64 * i, kOffset ? _mm512_sub_epi8(v, offset) : v); };
    if constexpr (kU4) {
      static_assert(kGroup == 32);
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        const __m512i v = S::load_levels(block + part * 256 + 64 * j);
        put(2 * j, S::low(v));
        put(2 * j + 1, S::high(v));
      }
    } else {
      constexpr int kLoads = kGroup / 4;
      const int first = kParts == 1 ? 0 : int(part % kParts) * kLoads;
#pragma GCC unroll 8
      for (int j = 0; j < kLoads; ++j) put(first + j, S::load_levels(block + (part * kLoads + j) * 64));
      if constexpr (kParts == 2)
        for (int j = 0; j < kLoads; ++j) _mm512_store_si512(out + 64 * (kLoads - first + j), _mm512_setzero_si512());
    }
  }

  // Few tokens: weights come from memory, and a block is as short for the hardware as to a decoding step (prefetch_lines).
  static void ask_for(const TileArgs& a, const std::byte* block, int64_t part) {
    constexpr int kLevelBytes = Plain::kLevelBytes / kParts, kScaleBytes = 16 * (kF32Scale ? 4 : 2);
    prefetch_lines(block + part * kLevelBytes, kLevelBytes);
    prefetch_lines(block + a.scales + part * kScaleBytes, kScaleBytes);
    if constexpr (kMin) prefetch_lines(block + a.mins + part / kParts * kScaleBytes, kScaleBytes);
  }

  template <int RB>
  static void load_levels(const Scratch<RB>& scratch, int64_t part) {
    asm volatile("" ::: "memory");  // the intrinsics do not say that they read
    _tile_loadd(6, scratch.levels[part % kBuffers][0], 64);
    if constexpr (RB == 2) _tile_loadd(7, scratch.levels[part % kBuffers][1], 64);
  }

  template <int RB>
  static void multiply(const int8_t* x, ptrdiff_t stride, bool odd, int32_t (&sums)[RB][kTokens * 16]) {
    if (odd) {
      _tile_loadd(5, x, stride);
      RETORT_MULTIPLY(2, 5, 6, sums[0]);
      if constexpr (RB == 2) RETORT_MULTIPLY(3, 5, 7, sums[1]);
    } else {
      _tile_loadd(4, x, stride);
      RETORT_MULTIPLY(0, 4, 6, sums[0]);
      if constexpr (RB == 2) RETORT_MULTIPLY(1, 4, 7, sums[1]);
    }
  }

  // Part by part, all tokens; sums gather in a.out.
  template <int RB>
  static void run(const TileArgs& a) {
    Scratch<RB> scratch;
    const int64_t tiles = a.tokens / kTokens, parts = a.columns / kGroup;
    std::fill_n(a.out, RB * a.tokens * 16, 0.0f);
    const auto spread_part = [&](int64_t part) {
      if (part >= parts) return;
      for (int r = 0; r < RB; ++r) {
        if (tiles == 1) ask_for(a, a.block[r] + a.ahead, part);
        spread(a.block[r], part, scratch.levels[part % kBuffers][r]);
      }
    };
    const auto finish = [&](int64_t step) {
      const int64_t part = step / tiles, tile = step % tiles, g = part / kParts;
      const auto& sums = scratch.sums[step % kSums];
      const float* sx = a.q_scale + g * a.group_stride + tile * kTokens;
      const float* mx = a.q_min + g * a.group_stride + tile * kTokens;
      float* acc[RB];
      S::F d[RB], m[RB];
#pragma GCC unroll 2
      for (int r = 0; r < RB; ++r) {
        acc[r] = a.out + (r * a.tokens + tile * kTokens) * 16;
        d[r] = Plain::load_scale(a.block[r] + a.scales, part);
        if constexpr (kMin) m[r] = Plain::load_scale(a.block[r] + a.mins, g);
      }
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 2
        for (int r = 0; r < RB; ++r) {
          const S::F scale = S::mul(d[r], S::set1(sx[t]));
          S::F sum = S::fma(scale, S::to_float(_mm512_load_si512(sums[r] + 16 * t)), S::load(acc[r] + 16 * t));
          if constexpr (kMin) sum = S::fma(m[r], S::set1(mx[t]), sum);
          S::store(acc[r] + 16 * t, sum);
        }
      }
    };
    for (int64_t part = 0; part < kAhead; ++part) spread_part(part);
    int64_t step = 0;
    for (int64_t part = 0; part < parts; ++part) {
      load_levels<RB>(scratch, part);
      spread_part(part + kAhead);
      for (int64_t tile = 0; tile < tiles; ++tile, ++step) {
        multiply<RB>(a.q + tile * kTokens * a.q_stride + part / kParts * 32, a.q_stride, step & 1, scratch.sums[step % kSums]);
        if (step >= kBehind) finish(step - kBehind);
      }
    }
    for (int64_t left = step - kBehind; left < step; ++left)
      if (left >= 0) finish(left);
  }
};

MatmulTiles with_matrix_unit() {
  MatmulTiles tiles = matmul_tiles<Avx512>();
  const auto set = [&]<bool kU4, bool kF32Scale, bool kMin, int kOffset, int kGroup>(TileKind kind) {
    using Tile = AmxTile<kU4, kF32Scale, kMin, kOffset, kGroup>;
    using Prompt = PromptTile<LevelWeights<kU4, kF32Scale, kMin, kOffset, kGroup>>;
    tiles.fn[int(kind)][0][kTileSizes - 1] = &Tile::template run<1>;
    tiles.fn[int(kind)][1][kTileSizes - 1] = &Tile::template run<2>;
    tiles.prompt[int(kind)][0] = &Prompt::template run<1>;
    tiles.prompt[int(kind)][1] = &Prompt::template run<2>;
  };
  set.operator()<true, false, false, 8, 32>(TileKind::kU4F16Offset);
  set.operator()<true, false, true, 0, 32>(TileKind::kU4F16Min);
  set.operator()<true, true, true, 0, 32>(TileKind::kU4F32Min);
  set.operator()<false, false, false, 16, 32>(TileKind::kU8F16Offset16);
  set.operator()<false, false, false, 128, 32>(TileKind::kU8F16Offset128);
  set.operator()<false, false, true, 0, 32>(TileKind::kU8F16Min);
  set.operator()<false, true, true, 0, 32>(TileKind::kU8F32Min);
  set.operator()<false, true, false, 32, 16>(TileKind::kU8By16F32Offset32);
  tiles.enter = &enter;
  tiles.leave = &leave;
  return tiles;
}

}  // namespace

const MatmulTiles& matmul_tiles_amx() {
  static const MatmulTiles tiles = with_matrix_unit();
  return tiles;
}
}  // namespace retort
#else
namespace retort {
const MatmulTiles& matmul_tiles_amx() { return matmul_tiles_scalar(); }
}  // namespace retort
#endif
