// Keys and values of full attention: the only state that grows with the context.
//
// Layer: runtime. A KvCache belongs to one thread at a time; copies share chunks until one of them writes.
//
// Chunks of 256 positions, allocated as the context grows and never moved. In a chunk keys come first, per kv head its
// positions side by side ([kv_heads][256][key_dim], then values alike), so that a head's keys are one stream.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "kernels/attention.h"
#include "mixers/probe_ops.h"

namespace retort {

class KvCache {
 public:
  static constexpr int64_t kChunk = 256;

  KvCache(const StateSlot& slot, CacheType type);

  int64_t rows() const { return rows_; }
  int64_t bytes() const { return rows_ * row_bytes(); }
  int64_t row_bytes() const { return columns_ * element_bytes(); }
  CacheType type() const { return type_; }
  void truncate(int64_t rows);
  // Chunks of its own, as if its rows had been appended: no longer shared with copies.
  void unshare();
  // keys [count, kv_heads * key_dim], values [count, kv_heads * value_dim], `stride` floats apart.
  void append(const float* keys, ptrdiff_t key_stride, const float* values, ptrdiff_t value_stride, int64_t count);
  // Valid until the next change.
  std::span<const CacheSpan> spans() const { return spans_; }

  // fn(which, bytes) for every chunk; copies of a cache share chunks, and those have one address.
  template <class Fn>
  void each_chunk(Fn&& fn) const {
    for (const auto& chunk : chunks_) fn(static_cast<const void*>(chunk.get()), kChunk * row_bytes());
  }

  // For state files: one position, keys then values, as stored. [row_bytes()]
  void read_row(int64_t row, std::byte* out) const;
  void append_row(const std::byte* in);

 private:
  struct Chunk;
  int64_t element_bytes() const { return type_ == CacheType::kF32 ? 4 : 2; }
  std::byte* writable(int64_t row);
  void update_spans(size_t first);
  // fn(byte offset in the chunk, byte offset in the row, bytes) for every head of a position.
  template <class Fn>
  void each_piece(int64_t row_in_chunk, Fn&& fn) const;

  CacheType type_;
  int64_t columns_, key_columns_, kv_heads_;
  int64_t rows_ = 0;
  std::vector<std::shared_ptr<Chunk>> chunks_;
  std::vector<CacheSpan> spans_;
};

}  // namespace retort
