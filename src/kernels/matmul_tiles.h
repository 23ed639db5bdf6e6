// The inner products of matmul.h: one or two 16-row blocks times a few tokens, once per instruction set.
//
// Layer: kernels. Templates over a simd struct; instantiated by matmul_tiles_*.cc. Thread-safe.
//
// Order of float operations per (row, token), whatever the tile, thread or instruction set:
//   quantised:  for each group of columns: acc = fma(d * sx, dot, acc), then acc = fma(m, sx * sum(x), acc) if m is stored
//   float:      for each column k: acc = fma(w[k], x[k], acc)
// so a token's result depends on nothing but the token. (kBf16Dot is the exception: the hardware instruction has its own
// rounding, so it agrees between tiles but not between instruction sets.)
// Prompts' tiles are a form of their own: weights and activations rounded to bf16, sums in fp32 in the hardware's order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace retort {

// What a tile function reads. Layouts of the block: packed_matrix.h.
enum class TileKind : int {
  kU4F16Offset,  // w = d (q - 8)
  kU4F16Min,     // w = d q + m
  kU4F32Min,
  kU8F16Offset16,   // w = d (q - 16)
  kU8F16Offset128,  // w = d (q - 128)
  kU8F16Min,
  kU8F32Min,
  kU8By16F32Offset32,  // w = d (q - 32), a scale per 16 columns
  kBf16,               // bf16 weights, f32 activations
  kBf16Dot,            // bf16 weights, bf16 activations
  kF16,
  kF32,
  kCount,
};

struct TileArgs {
  const std::byte* block[2] = {};  // row blocks
  ptrdiff_t scales = 0;            // offset of the scales in a block
  ptrdiff_t mins = 0;              // offset of the minima
  ptrdiff_t ahead = 0;             // where to prefetch from, relative to what is read; 0: nowhere
  int64_t tokens = 0;              // of a tile
  int64_t columns = 0;             // padded: whole groups of 32 (quantised), even (bf16)
  // Quantised activations.
  const int8_t* q = nullptr;         // [T, q_stride]
  // Of each group, tokens side by side: a tile's few numbers are one cache line.
  const float* q_scale = nullptr;    // [groups, group_stride]
  const float* q_min = nullptr;      // [groups, group_stride]: scale times sum of the group
  const int32_t* q_sum8 = nullptr;   // [groups, group_stride, 2]: -8 times the sum of each half group
  ptrdiff_t q_stride = 0, group_stride = 0;
  // Float activations.
  const float* x = nullptr;          // [T, x_stride]
  const uint16_t* x_bf16 = nullptr;  // [T, x_stride]; a prompt's: [tiles of 16 tokens, groups, 16, 32]
  ptrdiff_t x_stride = 0;
  float* out = nullptr;              // [row blocks, tokens, 16]
};

using TileFn = void (*)(const TileArgs&);
constexpr int kTileTokens[] = {1, 2, 4, 6, 16};  // tokens per tile; the last: any multiple, where there is a matrix unit
constexpr int kTileSizes = 5;
constexpr int kMostTileTokens = 96;
constexpr int kPromptTileTokens = 16;      // a prompt's tile takes any multiple, up to
constexpr int kMostPromptTokens = 512;

struct MatmulTiles {
  TileFn fn[int(TileKind::kCount)][2][kTileSizes];  // [kind][row blocks - 1][index into kTileTokens]; null: not there
  // One row of activations: groups of 32 to signed bytes. `columns` need not be a multiple of 32. The groups' numbers stand
  // `group_stride` apart, those of sum8 twice as far.
  void (*quantise)(const float* x, int64_t columns, ptrdiff_t group_stride, int8_t* q, float* scale, float* min, int32_t* sum8);
  void (*to_bf16)(const float* x, int64_t columns, uint16_t* out);
  TileFn prompt[int(TileKind::kCount)][2] = {};  // [kind][row blocks - 1]; null: not there
  // Around a thread's tiles of the last size; null where there are none.
  void (*enter)() = nullptr;
  void (*leave)() = nullptr;
};

const MatmulTiles& matmul_tiles_scalar();
const MatmulTiles& matmul_tiles_avx2();    // only when the machine has it
const MatmulTiles& matmul_tiles_avx512();
const MatmulTiles& matmul_tiles_amx();
const MatmulTiles& matmul_tiles_neon();
const MatmulTiles& matmul_tiles_neon_dot();

}  // namespace retort
