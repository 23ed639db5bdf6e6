// The matrix unit (AMX): how its registers are laid out, and entering and leaving it.
//
// Layer: kernels. Only for *_amx.cc. The compiler wants registers' numbers as literals, and does not know that loading one reads
// memory: put asm volatile("" ::: "memory") between what writes and what loads.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace retort {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// Sixteen rows of 64 bytes in every register.
inline constexpr TileConfig kWholeTiles;

class MatrixUnit {
 public:
  explicit MatrixUnit(const TileConfig& config = kWholeTiles) { _tile_loadconfig(&config); }
  ~MatrixUnit() { _tile_release(); }
  MatrixUnit(const MatrixUnit&) = delete;
  MatrixUnit& operator=(const MatrixUnit&) = delete;
};

}  // namespace retort
