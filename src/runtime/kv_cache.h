// Keys and values of full attention: the only state that grows with the context.
//
// Layer: runtime. Not thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "mixers/probe_ops.h"

namespace retort {

class KvCache {
 public:
  explicit KvCache(const StateSlot& slot) : columns_(slot.columns) {}
  int64_t rows() const { return int64_t(data_.size()) / columns_; }
  int64_t bytes() const { return int64_t(data_.size() * sizeof(float)); }
  void truncate(int64_t rows) { data_.resize(size_t(rows * columns_)); }
  float* append(int64_t rows) {
    const size_t before = data_.size();
    data_.resize(before + size_t(rows * columns_));
    return data_.data() + before;
  }
  const float* row(int64_t r) const { return data_.data() + r * columns_; }
 private:
  int64_t columns_;
  std::vector<float> data_;
};

}  // namespace retort
