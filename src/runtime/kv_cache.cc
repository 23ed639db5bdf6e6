#include "runtime/kv_cache.h"

#include <cstdlib>
#include <cstring>
#include <new>

#include "kernels/elementwise.h"

namespace retort {

struct KvCache::Chunk {
  explicit Chunk(int64_t bytes) : size(size_t(bytes + 63) / 64 * 64), data(static_cast<std::byte*>(std::aligned_alloc(64, size))) {
    if (!data) throw std::bad_alloc();
  }
  Chunk(const Chunk& other) : Chunk(int64_t(other.size)) { std::memcpy(data, other.data, size); }
  Chunk& operator=(const Chunk&) = delete;
  ~Chunk() { std::free(data); }
  size_t size;
  std::byte* data;
};

KvCache::KvCache(const StateSlot& slot, CacheType type)
    : type_(type), columns_(slot.columns), key_columns_(slot.key_columns), kv_heads_(slot.kv_heads) {}

void KvCache::unshare() {
  for (auto& chunk : chunks_)
    if (chunk.use_count() > 1) chunk = std::make_shared<Chunk>(*chunk);
  update_spans(0);
}

void KvCache::truncate(int64_t rows) {
  rows_ = std::min(rows_, rows);
  chunks_.resize(size_t(rows_ + kChunk - 1) / kChunk);
  update_spans(chunks_.empty() ? 0 : chunks_.size() - 1);
}

std::byte* KvCache::writable(int64_t row) {
  const size_t index = size_t(row / kChunk);
  if (index == chunks_.size()) chunks_.push_back(std::make_shared<Chunk>(kChunk * row_bytes()));
  if (chunks_[index].use_count() > 1) chunks_[index] = std::make_shared<Chunk>(*chunks_[index]);
  return chunks_[index]->data;
}

template <class Fn>
void KvCache::each_piece(int64_t row, Fn&& fn) const {
  const int64_t key = key_columns_ / kv_heads_ * element_bytes(), value = (columns_ - key_columns_) / kv_heads_ * element_bytes();
  for (int64_t g = 0; g < kv_heads_; ++g) fn((g * kChunk + row) * key, g * key, key);
  const int64_t keys = kv_heads_ * key;
  for (int64_t g = 0; g < kv_heads_; ++g) fn(kChunk * keys + (g * kChunk + row) * value, keys + g * value, value);
}

void KvCache::append(const float* keys, ptrdiff_t key_stride, const float* values, ptrdiff_t value_stride, int64_t count) {
  const int64_t element = element_bytes(), key_bytes = key_columns_ * element;
  const size_t first = size_t(rows_ / kChunk);
  for (int64_t t = 0; t < count; ++t, ++rows_) {
    std::byte* chunk = writable(rows_);
    const float *key = keys + t * key_stride, *value = values + t * value_stride;
    each_piece(rows_ % kChunk, [&](int64_t to, int64_t from, int64_t bytes) {
      const float* source = from < key_bytes ? key + from / element : value + (from - key_bytes) / element;
      if (type_ == CacheType::kF32) std::memcpy(chunk + to, source, size_t(bytes));
      else elementwise().to_bf16(source, bytes / 2, reinterpret_cast<uint16_t*>(chunk + to));
    });
  }
  update_spans(first);
}

void KvCache::read_row(int64_t row, std::byte* out) const {
  const std::byte* chunk = chunks_[size_t(row / kChunk)]->data;
  each_piece(row % kChunk, [&](int64_t from, int64_t to, int64_t bytes) { std::memcpy(out + to, chunk + from, size_t(bytes)); });
}

void KvCache::append_row(const std::byte* in) {
  std::byte* chunk = writable(rows_);
  each_piece(rows_ % kChunk, [&](int64_t to, int64_t from, int64_t bytes) { std::memcpy(chunk + to, in + from, size_t(bytes)); });
  ++rows_;
  update_spans(chunks_.size() - 1);
}

void KvCache::update_spans(size_t first) {
  const int64_t key_dim = key_columns_ / kv_heads_, value_dim = (columns_ - key_columns_) / kv_heads_;
  spans_.resize(chunks_.size());
  for (size_t i = first; i < chunks_.size(); ++i) {
    const std::byte* data = chunks_[i]->data;
    const int64_t begin = int64_t(i) * kChunk;
    spans_[i] = {data, data + kChunk * key_columns_ * element_bytes(), key_dim, kChunk * key_dim, value_dim, kChunk * value_dim,
                 begin, std::min(kChunk, rows_ - begin)};
  }
}

}  // namespace retort
