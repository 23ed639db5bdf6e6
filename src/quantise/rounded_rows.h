// Rows of a matrix on their grids, before they are packed into blocks.
//
// Layer: quantise.
#pragma once

#include <cstdint>
#include <vector>

#include "base/threads.h"
#include "quantise/block_grid.h"

namespace retort {

struct RoundedRows {
  int64_t rows, columns;
  std::vector<int8_t> levels;    // [rows, columns]
  std::vector<BlockGrid> grids;  // [rows, columns / 32]

  RoundedRows(int64_t r, int64_t c) : rows(r), columns(c), levels(size_t(r * c)), grids(size_t(r * c / kGridBlock)) {}
  int8_t& level(int64_t row, int64_t column) { return levels[size_t(row * columns + column)]; }
  BlockGrid& grid(int64_t row, int64_t column) { return grids[size_t((row * columns + column) / kGridBlock)]; }
  float value(int64_t row, int64_t column) const {
    return grids[size_t((row * columns + column) / kGridBlock)].value(levels[size_t(row * columns + column)]);
  }

  // As a file has them, row by row. `type` is that of the grids.
  std::vector<std::byte> blocks(TensorType type, ThreadPool& pool) const;
};

}  // namespace retort
