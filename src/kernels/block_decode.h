// A row of weights as levels, scales and minima: w = d q + m. Between GGUF's blocks, float rows and PackedMatrix's layout.
// Layer: kernels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/block_formats.h"

namespace retort {

struct LevelRow {
  std::vector<uint8_t> levels;  // [columns]
  std::vector<float> d, m;      // [columns / 32], or / 16 for kQ6_K; m only where the format stores it
};

// Of Q5_0, Q5_1 and the K formats; PackedMatrix moves the levels of the others as they lie. `columns` must be whole blocks.
void decode_blocks(BlockFormat format, const std::byte* blocks, int64_t columns, LevelRow& out);

// Rounds to kQ4_0, kQ4_1 or kQ8_0 with f16 scales. False: a value is not finite or beyond what f16 scales reach.
bool quantise_floats(BlockFormat format, const float* values, int64_t columns, LevelRow& out);

}  // namespace retort
