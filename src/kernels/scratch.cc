#include "kernels/scratch.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

namespace retort {
namespace {

constexpr std::align_val_t kAlign{64};
constexpr size_t kFirstBlock = size_t(1) << 20;

struct Block {
  explicit Block(size_t n) : data(static_cast<std::byte*>(::operator new(n, kAlign))), size(n) {}
  struct Free {
    void operator()(std::byte* p) const { ::operator delete(p, kAlign); }
  };
  std::unique_ptr<std::byte, Free> data;
  size_t size;
};

struct Stack {
  std::vector<Block> blocks;
  size_t block = 0, used = 0;  // the next free byte
};

thread_local Stack stack;
std::atomic<bool> poison{false};

}  // namespace

ScratchFrame::ScratchFrame() : block_(stack.block), used_(stack.used) {}

ScratchFrame::~ScratchFrame() {
  stack.block = block_, stack.used = used_;
  if (block_ == 0 && used_ == 0 && stack.blocks.size() > 1) {  // one block next time
    size_t total = 0;
    for (const Block& b : stack.blocks) total += b.size;
    stack.blocks.clear();
    stack.blocks.emplace_back(total);
  }
}

void* ScratchFrame::bytes(size_t n) {
  n = (n + 63) / 64 * 64;
  while (stack.block < stack.blocks.size() && stack.used + n > stack.blocks[stack.block].size) {
    ++stack.block;
    stack.used = 0;
  }
  if (stack.block == stack.blocks.size()) stack.blocks.emplace_back(std::max(n, kFirstBlock));
  std::byte* p = stack.blocks[stack.block].data.get() + stack.used;
  stack.used += n;
  if (poison.load(std::memory_order_relaxed)) std::memset(p, 0xff, n);
  return p;
}

void poison_scratch(bool on) { poison.store(on); }

}  // namespace retort
