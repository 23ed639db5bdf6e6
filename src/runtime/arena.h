// Scratch memory of one forward pass: taken by moving a mark, given back all at once.
//
// Layer: runtime. Not thread-safe. Grows while a larger pass than ever is running, never shrinks: after warm-up a pass of a
// known size allocates nothing.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

namespace retort {

class Arena {
 public:
  struct Mark {
    size_t block = 0, used = 0;
  };

  // 64-byte aligned, contents undefined.
  float* floats(int64_t count) {
    const size_t bytes = (size_t(count) * sizeof(float) + 63) / 64 * 64 + 64;  // never two results at one address
    while (mark_.block < blocks_.size() && mark_.used + bytes > blocks_[mark_.block].size) {
      ++mark_.block;
      mark_.used = 0;
    }
    if (mark_.block == blocks_.size()) add_block(bytes);
    float* out = reinterpret_cast<float*>(blocks_[mark_.block].data.get() + mark_.used);
    mark_.used += bytes;
    return out;
  }

  Mark mark() const { return mark_; }
  void release(Mark mark) { mark_ = mark; }
  size_t capacity() const {
    size_t total = 0;
    for (const auto& block : blocks_) total += block.size;
    return total;
  }

 private:
  struct Free {
    void operator()(std::byte* p) const { std::free(p); }
  };
  struct Block {
    std::unique_ptr<std::byte, Free> data;
    size_t size = 0;
  };
  void add_block(size_t least) {
    const size_t size = std::max(least, blocks_.empty() ? size_t{1} << 20 : 2 * blocks_.back().size);
    auto* data = static_cast<std::byte*>(std::aligned_alloc(64, (size + 63) / 64 * 64));
    if (!data) throw std::bad_alloc();
    blocks_.push_back({std::unique_ptr<std::byte, Free>(data), size});
  }

  std::vector<Block> blocks_;
  Mark mark_;
};

}  // namespace retort
