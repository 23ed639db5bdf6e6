#include "kernels/weight_memory.h"

#include <cstdlib>
#include <mutex>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace retort {
namespace {

constexpr size_t kHugePage = size_t(2) << 20;
#if defined(RETORT_MATRICES_APART)
constexpr size_t kPiece = 0;  // every matrix by itself, so that reading past one is seen
#else
constexpr size_t kPiece = size_t(32) << 20;
#endif

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

std::shared_ptr<std::byte> allocate(size_t bytes) {
  const size_t align = bytes >= kHugePage ? kHugePage : 64, size = round_up(bytes, align);
  void* data = std::aligned_alloc(align, size);
  if (!data) return nullptr;
#if defined(__linux__)
  if (align == kHugePage) madvise(data, size, MADV_HUGEPAGE);
#endif
  return {static_cast<std::byte*>(data), [](std::byte* p) { std::free(p); }};
}

// The piece that is being filled lives as long as something in it.
std::mutex mutex;
std::weak_ptr<std::byte> piece;
size_t used = 0;

}  // namespace

std::shared_ptr<std::byte> weight_memory(size_t bytes) {
  const size_t size = round_up(bytes, 64);
  if (size > kPiece / 2) return allocate(size);
  const std::lock_guard lock(mutex);
  auto current = piece.lock();
  if (!current || used + size > kPiece) {
    current = allocate(kPiece);
    if (!current) return nullptr;
    piece = current;
    used = 0;
  }
  std::byte* const data = current.get() + used;
  used += size;
  return {std::move(current), data};
}

}  // namespace retort
