// The levels that a block of 32 weights may take in Q8_0, Q4_0 and Q4_1, and the choice of them that loses least.
//
// Layer: quantise. Pure functions.
#pragma once

#include <cstddef>

#include "io/quant_blocks.h"

namespace retort {

inline constexpr int kGridBlock = 32;

// w = step level + offset, least <= level <= most. step and offset are numbers that f16 has.
struct BlockGrid {
  float step = 0, offset = 0;
  int least = 0, most = 0;

  int level(float w) const;
  float value(int level) const { return step * float(level) + offset; }
};

bool has_grid(TensorType type);

// For w[32], the sum of weight[i] (w[i] - its nearest level)^2 smallest among grids that cut off more or less of the extremes.
BlockGrid choose_grid(TensorType type, const float* w, const float* weight);

// The block as it is stored. levels[32] are the grid's.
void put_block(TensorType type, const BlockGrid& grid, const int8_t* levels, std::byte* out);

}  // namespace retort
