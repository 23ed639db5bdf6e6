// A weight matrix as the kernels read it: any GGUF block format, one layout, nothing lost.
//
// Layer: kernels. Immutable once packed: any number of threads may read it.
//
// Sixteen rows make a block; a block holds, each from an offset that is a multiple of 64 bytes:
//   levels  u4: per 32 columns 256 bytes: load j of 64 bytes has, for row r at 4r..4r+3, columns 8j..8j+3 in the low and
//               8j+4..8j+7 in the high nibbles
//           u8: per 32 columns 512 bytes: load j has columns 4j..4j+3 of row r at 4r..4r+3
//           bf16: column pairs: [columns/2][16 rows][2]          f16, f32: [columns][16 rows]
//   scales  [groups][16 rows] f16 or f32;   minima likewise, where the format stores them
// Quantised: w = d q + m with unsigned levels q; formats with a fixed offset have m = -offset d and store no m.
// Columns are padded to a multiple of 32 (quantised) or 2 (bf16), rows to one of 16, with zeros.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "kernels/block_formats.h"
#include "kernels/matmul_tiles.h"

namespace retort {

class PackedMatrix {
 public:
  PackedMatrix() = default;

  // Rows of GGUF blocks. `rows[i]` points at the blocks of packed row i (so a permutation, a concatenation or a choice of rows
  // costs nothing); null: a row of zeros. Refuses columns that are not whole blocks.
  static Result<PackedMatrix> pack(BlockFormat format, int64_t columns, std::span<const std::byte* const> rows,
                                   ThreadPool* pool = nullptr);
  static Result<PackedMatrix> pack(BlockFormat format, int64_t rows, int64_t columns, const std::byte* blocks,
                                   ThreadPool* pool = nullptr);

  // Rows of floats, rounded to `format`: kQ8_0, kQ4_0, kQ4_1, kBF16, kF16 or kF32; any number of columns. Refuses values that
  // the format's f16 scales cannot hold.
  static Result<PackedMatrix> pack_f32(BlockFormat format, int64_t columns, std::span<const float* const> rows,
                                       ThreadPool* pool = nullptr);
  static Result<PackedMatrix> pack_f32(BlockFormat format, int64_t rows, int64_t columns, const float* values,
                                       ThreadPool* pool = nullptr);

  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  int64_t blocks() const { return (rows_ + 15) / 16; }
  int64_t block_bytes() const { return block_bytes_; }
  int64_t bytes() const { return blocks() * block_bytes_; }
  BlockFormat format() const { return format_; }
  TileKind kind() const { return kind_; }
  bool quantised() const { return kind_ < TileKind::kBf16; }

  void dequantise_row(int64_t row, float* out) const;  // [columns]

  // Fills block pointers and offsets of `args` for row block `first` (and the next).
  void describe(TileArgs& args, int64_t first, int count) const;
  int64_t padded_columns() const { return padded_columns_; }

 private:
  static Result<PackedMatrix> make(BlockFormat format, int64_t rows, int64_t columns);
  struct Row;
  void store_row(int64_t row, const Row& values);
  template <class Block>
  void store_blocks(int64_t row, const std::byte* blocks);
  void store_numbers(int64_t row, const std::byte* numbers);
  template <class Fill>
  void fill_rows(ThreadPool* pool, Fill&& fill);

  BlockFormat format_ = BlockFormat::kF32;
  TileKind kind_ = TileKind::kF32;
  int64_t rows_ = 0, columns_ = 0, padded_columns_ = 0, block_bytes_ = 0;
  int64_t scales_ = 0, mins_ = 0;  // offsets in a block
  std::shared_ptr<std::byte> data_;  // beside other matrices', weight_memory.h
};

// Row pointers that put 16 rows of `a` beside 16 rows of `b`, block by block: one product then has both halves of a gated MLP in
// neighbouring blocks (Epilogue::kSiluPairs). Rows beyond `count` are null.
template <class T>
std::vector<const T*> interleave_rows(const T* a, const T* b, int64_t count, int64_t row_elements) {
  std::vector<const T*> rows;
  for (int64_t block = 0; 16 * block < count; ++block)
    for (const T* source : {a, b})
      for (int64_t i = 16 * block; i < 16 * block + 16; ++i) rows.push_back(i < count ? source + i * row_elements : nullptr);
  return rows;
}

}  // namespace retort
