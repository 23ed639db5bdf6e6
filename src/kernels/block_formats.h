// How weights lie in GGUF files: type ids and block layouts, as far as packing needs them.
//
// Layer: kernels. Plain values. (io has its own reader of the same blocks, which tests hold this one against: kernels may not
// include io.) All multi-byte fields are little-endian; `d`, `m`, `dmin` are f16 bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace retort {

enum class BlockFormat : uint32_t {  // GGUF's ids
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

struct BlockQ4_0 { uint16_t d; uint8_t qs[16]; };                      // element i: low nibble of qs[i], i+16: high
struct BlockQ4_1 { uint16_t d, m; uint8_t qs[16]; };
struct BlockQ5_0 { uint16_t d; uint8_t qh[4]; uint8_t qs[16]; };       // bit i of qh: fifth bit of element i
struct BlockQ5_1 { uint16_t d, m; uint8_t qh[4]; uint8_t qs[16]; };
struct BlockQ8_0 { uint16_t d; int8_t qs[32]; };
struct BlockQ4_K { uint16_t d, dmin; uint8_t scales[12]; uint8_t qs[128]; };
struct BlockQ5_K { uint16_t d, dmin; uint8_t scales[12]; uint8_t qh[32]; uint8_t qs[128]; };
struct BlockQ6_K { uint8_t ql[128]; uint8_t qh[64]; int8_t scales[16]; uint16_t d; };
static_assert(sizeof(BlockQ4_0) == 18 && sizeof(BlockQ4_1) == 20 && sizeof(BlockQ5_0) == 22 && sizeof(BlockQ5_1) == 24);
static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockQ4_K) == 144 && sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210);

struct BlockSize {
  int elements = 0;  // 0: a format we do not know
  int bytes = 0;
};

constexpr BlockSize block_size(BlockFormat format) {
  switch (format) {
    case BlockFormat::kF32: return {1, 4};
    case BlockFormat::kF16: return {1, 2};
    case BlockFormat::kBF16: return {1, 2};
    case BlockFormat::kQ4_0: return {32, 18};
    case BlockFormat::kQ4_1: return {32, 20};
    case BlockFormat::kQ5_0: return {32, 22};
    case BlockFormat::kQ5_1: return {32, 24};
    case BlockFormat::kQ8_0: return {32, 34};
    case BlockFormat::kQ4_K: return {256, 144};
    case BlockFormat::kQ5_K: return {256, 176};
    case BlockFormat::kQ6_K: return {256, 210};
  }
  return {};
}

}  // namespace retort
