#include "kernels/packed_matrix.h"

#include <atomic>
#include <cstring>

#include "base/half.h"
#include "kernels/block_decode.h"
#include "kernels/rounding.h"
#include "kernels/weight_memory.h"

namespace retort {
namespace {

struct KindInfo {
  TileKind kind;
  int level_bytes;  // per 32 columns of 16 rows
  int scale_bytes;  // 0: not quantised
  int group;        // columns per scale
  int offset;       // w = d (q - offset)
  bool min;
};

// Legacy formats keep their f16 scales; d * scale of the K formats needs f32.
KindInfo kind_info(BlockFormat format) {
  switch (format) {
    case BlockFormat::kQ4_0: return {TileKind::kU4F16Offset, 256, 2, 32, 8, false};
    case BlockFormat::kQ4_1: return {TileKind::kU4F16Min, 256, 2, 32, 0, true};
    case BlockFormat::kQ4_K: return {TileKind::kU4F32Min, 256, 4, 32, 0, true};
    case BlockFormat::kQ5_0: return {TileKind::kU8F16Offset16, 512, 2, 32, 16, false};
    case BlockFormat::kQ8_0: return {TileKind::kU8F16Offset128, 512, 2, 32, 128, false};
    case BlockFormat::kQ5_1: return {TileKind::kU8F16Min, 512, 2, 32, 0, true};
    case BlockFormat::kQ5_K: return {TileKind::kU8F32Min, 512, 4, 32, 0, true};
    case BlockFormat::kQ6_K: return {TileKind::kU8By16F32Offset32, 512, 4, 16, 32, false};
    case BlockFormat::kBF16: return {TileKind::kBf16, 0, 0, 0, 0, false};
    case BlockFormat::kF16: return {TileKind::kF16, 0, 0, 0, 0, false};
    case BlockFormat::kF32: break;
  }
  return {TileKind::kF32, 0, 0, 0, 0, false};
}


int64_t level_index(const KindInfo& info, int64_t row, int64_t column) {
  const int64_t g = column / 32, k = column % 32;
  if (info.level_bytes == 256) return g * 256 + k / 8 * 64 + row * 4 + k % 4;
  return g * 512 + k / 4 * 64 + row * 4 + k % 4;
}

int64_t float_index(TileKind kind, int64_t row, int64_t column) {
  return kind == TileKind::kBf16 ? column / 2 * 32 + row * 2 + column % 2 : column * 16 + row;
}

// Four columns of a row, or twice four with two levels a byte, to every load of 64 bytes.
void store_fours(const uint32_t* fours, int count, std::byte* to) {
  for (int j = 0; j < count; ++j) std::memcpy(to + 64 * j, &fours[j], 4);
}

float read_scale(const std::byte* p, int bytes, int64_t i) {
  if (bytes == 4) return reinterpret_cast<const float*>(p)[i];
  return f16_to_float(reinterpret_cast<const uint16_t*>(p)[i]);
}

void write_scale(std::byte* p, int bytes, int64_t i, float value) {
  if (bytes == 4) reinterpret_cast<float*>(p)[i] = value;
  else reinterpret_cast<uint16_t*>(p)[i] = float_to_f16(value);
}

}  // namespace

// One source row: levels or, for float formats, the row's own bytes.
struct PackedMatrix::Row {
  LevelRow levels;
  std::vector<float> floats;
};

Result<PackedMatrix> PackedMatrix::make(BlockFormat format, int64_t rows, int64_t columns) {
  constexpr int64_t kMost = int64_t(1) << 31;
  if (rows <= 0 || columns <= 0 || rows > kMost || columns > kMost)
    return invalid("a weight matrix of ", rows, " x ", columns, ": sizes must be between 1 and 2^31");
  PackedMatrix w;
  const KindInfo info = kind_info(format);
  w.format_ = format;
  w.kind_ = info.kind;
  w.rows_ = rows;
  w.columns_ = columns;
  if (info.scale_bytes) {
    w.padded_columns_ = round_up(columns, 32);
    const int64_t scale_bytes = w.padded_columns_ / info.group * 16 * info.scale_bytes;
    w.scales_ = w.padded_columns_ / 32 * info.level_bytes;
    w.mins_ = w.scales_ + scale_bytes;
    w.block_bytes_ = round_up(w.mins_ + (info.min ? scale_bytes : 0), 64);
  } else {
    w.padded_columns_ = info.kind == TileKind::kBf16 ? round_up(columns, 2) : columns;
    w.block_bytes_ = round_up(w.padded_columns_ * 16 * (info.kind == TileKind::kF32 ? 4 : 2), 64);
  }
  w.data_ = weight_memory(size_t(w.bytes()));
  if (!w.data_) return io_error("no memory for ", w.bytes(), " bytes of weights");
  return w;
}

void PackedMatrix::store_row(int64_t row, const Row& values) {
  const KindInfo info = kind_info(format_);
  std::byte* block = data_.get() + row / 16 * block_bytes_;
  const int64_t r = row % 16;
  if (!info.scale_bytes) {
    for (int64_t k = 0; k < columns_; ++k) {
      const int64_t i = float_index(kind_, r, k);
      const float v = values.floats[k];
      if (kind_ == TileKind::kF32) reinterpret_cast<float*>(block)[i] = v;
      else reinterpret_cast<uint16_t*>(block)[i] = kind_ == TileKind::kBf16 ? float_to_bf16(v) : float_to_f16(v);
    }
    return;
  }
  for (int64_t g = 0; g < padded_columns_ / 32; ++g) {
    uint32_t fours[8] = {};
    std::memcpy(fours, &values.levels.levels[size_t(32 * g)], size_t(std::min<int64_t>(32, columns_ - 32 * g)));
    if (info.level_bytes == 256) {
      for (int j = 0; j < 4; ++j) fours[j] = fours[2 * j] | fours[2 * j + 1] << 4;
    }
    store_fours(fours, info.level_bytes / 64, block + g * info.level_bytes + 4 * r);
  }
  for (size_t g = 0; g < values.levels.d.size(); ++g) {
    write_scale(block + scales_, info.scale_bytes, int64_t(g) * 16 + r, values.levels.d[g]);
    if (info.min) write_scale(block + mins_, info.scale_bytes, int64_t(g) * 16 + r, values.levels.m[g]);
  }
}

// Blocks of 32 with f16 scales, straight from the file: what most models are made of, and most of the time in which one is opened.
template <class Block>
void PackedMatrix::store_blocks(int64_t row, const std::byte* blocks) {
  constexpr bool kNibbles = sizeof(Block::qs) == 16;
  constexpr int kLevelBytes = kNibbles ? 256 : 512;
  std::byte* const to = data_.get() + row / 16 * block_bytes_;
  const int64_t r = row % 16;
  for (int64_t g = 0; g < columns_ / 32; ++g) {
    Block b;
    std::memcpy(&b, blocks + g * int64_t(sizeof b), sizeof b);
    uint32_t fours[8];
    std::memcpy(fours, b.qs, sizeof b.qs);
    if constexpr (kNibbles) {  // columns i and i + 16 share a byte there, i and i + 4 here
      uint32_t low[4], high[4];
      for (int i = 0; i < 4; ++i) low[i] = fours[i] & 0x0f0f0f0f, high[i] = fours[i] >> 4 & 0x0f0f0f0f;
      for (int i = 0; i < 2; ++i) fours[i] = low[2 * i] | low[2 * i + 1] << 4, fours[2 + i] = high[2 * i] | high[2 * i + 1] << 4;
    } else {
      for (uint32_t& four : fours) four ^= 0x80808080;  // signed bytes to levels from 0
    }
    store_fours(fours, kLevelBytes / 64, to + g * kLevelBytes + 4 * r);
    std::memcpy(to + scales_ + 2 * (16 * g + r), &b.d, 2);
    if constexpr (requires { b.m; }) std::memcpy(to + mins_ + 2 * (16 * g + r), &b.m, 2);
  }
}

// Numbers that stay as they are in the file.
void PackedMatrix::store_numbers(int64_t row, const std::byte* numbers) {
  std::byte* const to = data_.get() + row / 16 * block_bytes_;
  const int64_t r = row % 16;
  const int bytes = kind_ == TileKind::kF32 ? 4 : 2;
  if (kind_ == TileKind::kBf16) {
    for (int64_t k = 0; k + 1 < columns_; k += 2) std::memcpy(to + 2 * float_index(kind_, r, k), numbers + 2 * k, 4);
    if (columns_ % 2) std::memcpy(to + 2 * float_index(kind_, r, columns_ - 1), numbers + 2 * (columns_ - 1), 2);
    return;
  }
  for (int64_t k = 0; k < columns_; ++k) std::memcpy(to + bytes * float_index(kind_, r, k), numbers + bytes * k, size_t(bytes));
}

template <class Fill>
void PackedMatrix::fill_rows(ThreadPool* pool, Fill&& fill) {
  const auto range = [&](int64_t begin, int64_t end) {  // fill: false where there is nothing left to store
    Row row;
    std::memset(data_.get() + begin * block_bytes_, 0, size_t((end - begin) * block_bytes_));
    for (int64_t i = 16 * begin; i < std::min(rows_, 16 * end); ++i)
      if (fill(i, row)) store_row(i, row);
  };
  if (pool) pool->parallel_for(blocks(), 1, range);
  else range(0, blocks());
}

Result<PackedMatrix> PackedMatrix::pack(BlockFormat format, int64_t columns, std::span<const std::byte* const> rows,
                                        ThreadPool* pool) {
  const BlockSize size = block_size(format);
  if (size.elements == 0) return invalid("weights of type ", uint32_t(format), ": not a supported block format");
  if (columns % size.elements)
    return invalid("rows of ", columns, " weights: the block format needs a multiple of ", size.elements);
  RETORT_TRY(PackedMatrix w, make(format, int64_t(rows.size()), columns));
  w.fill_rows(pool, [&](int64_t i, Row& row) {
    const std::byte* p = rows[size_t(i)];
    if (!p) return false;
    switch (format) {
      case BlockFormat::kQ4_0: w.store_blocks<BlockQ4_0>(i, p); return false;
      case BlockFormat::kQ4_1: w.store_blocks<BlockQ4_1>(i, p); return false;
      case BlockFormat::kQ8_0: w.store_blocks<BlockQ8_0>(i, p); return false;
      default: break;
    }
    if (!w.quantised()) {
      w.store_numbers(i, p);
      return false;
    }
    decode_blocks(format, p, columns, row.levels);
    return true;
  });
  return w;
}

Result<PackedMatrix> PackedMatrix::pack(BlockFormat format, int64_t rows, int64_t columns, const std::byte* blocks,
                                        ThreadPool* pool) {
  const BlockSize size = block_size(format);
  if (rows <= 0 || size.elements == 0) return pack(format, columns, {}, pool);
  std::vector<const std::byte*> pointers(size_t(rows), nullptr);
  for (int64_t i = 0; i < rows; ++i) pointers[i] = blocks + i * (columns / size.elements * size.bytes);
  return pack(format, columns, pointers, pool);
}

Result<PackedMatrix> PackedMatrix::pack_f32(BlockFormat format, int64_t columns, std::span<const float* const> rows,
                                            ThreadPool* pool) {
  using enum BlockFormat;
  const bool levels = format == kQ8_0 || format == kQ4_0 || format == kQ4_1;
  if (!levels && format != kBF16 && format != kF16 && format != kF32)
    return invalid("weights cannot be rounded to type ", uint32_t(format), ": q8_0, q4_0, q4_1, bf16, f16 and f32 can");
  RETORT_TRY(PackedMatrix w, make(format, int64_t(rows.size()), columns));
  std::atomic<int64_t> bad{-1};
  w.fill_rows(pool, [&](int64_t i, Row& row) {
    const float* p = rows[size_t(i)];
    if (!p) return false;
    if (!levels) row.floats.assign(p, p + columns);
    else if (!quantise_floats(format, p, columns, row.levels)) {
      bad = i;
      return false;
    }
    return true;
  });
  if (bad >= 0) return invalid("row ", bad.load(), ": a weight is not finite, or too large to be quantised");
  return w;
}

Result<PackedMatrix> PackedMatrix::pack_f32(BlockFormat format, int64_t rows, int64_t columns, const float* values,
                                            ThreadPool* pool) {
  if (rows <= 0) return pack_f32(format, columns, {}, pool);
  std::vector<const float*> pointers(size_t(rows), nullptr);
  for (int64_t i = 0; i < rows; ++i) pointers[i] = values + i * columns;
  return pack_f32(format, columns, pointers, pool);
}

void PackedMatrix::dequantise_row(int64_t row, float* out) const {
  const KindInfo info = kind_info(format_);
  const std::byte* block = data_.get() + row / 16 * block_bytes_;
  const int64_t r = row % 16;
  for (int64_t k = 0; k < columns_; ++k) {
    if (!info.scale_bytes) {
      const int64_t i = float_index(kind_, r, k);
      const auto* halves = reinterpret_cast<const uint16_t*>(block);
      out[k] = kind_ == TileKind::kF32    ? reinterpret_cast<const float*>(block)[i]
               : kind_ == TileKind::kBf16 ? bf16_to_float(halves[i])
                                          : f16_to_float(halves[i]);
      continue;
    }
    const int byte = int(block[level_index(info, r, k)]);
    const int level = info.level_bytes == 512 ? byte : k % 8 >= 4 ? byte >> 4 : byte & 15;
    const int64_t g = k / info.group * 16 + r;
    out[k] = read_scale(block + scales_, info.scale_bytes, g) * float(level - info.offset);
    if (info.min) out[k] += read_scale(block + mins_, info.scale_bytes, g);
  }
}

void PackedMatrix::describe(TileArgs& args, int64_t first, int count) const {
  for (int i = 0; i < count; ++i) args.block[i] = data_.get() + (first + i) * block_bytes_;
  constexpr int64_t kFarthest = 16 << 10;  // well inside the first-level cache
  args.ahead = first + 2 * count > blocks() ? 0 : std::min(count * block_bytes_, kFarthest);
  args.scales = scales_;
  args.mins = mins_;
  args.columns = padded_columns_;
}

}  // namespace retort
