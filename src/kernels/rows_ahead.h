// Rows that a kernel will touch in its next chunk, asked for a few at a time between the products of this one.
//
// Layer: kernels. One list per thread. One head's rows lie a row of all heads apart, too far for the processor to see them coming; asking
// for all of them at once would make the products wait instead.
#pragma once

#include <cstdint>

namespace retort {

struct RowsAhead {
  struct Rows {
    const char* next;
    int64_t stride, rows, bytes;
  };
  Rows list[16];
  int count, current;

  [[gnu::always_inline]] void clear() { count = current = 0; }
  // One kv head's columns of `rows` rows of [T, kv_heads * width], from row `first` on; null is absent.
  template <class T>
  [[gnu::always_inline]] void add(const T* x, int64_t kv_heads, int kv_head, int64_t first, int64_t rows, int64_t width) {
    if (!x || rows <= 0) return;
    const int64_t size = int64_t(sizeof(T));
    list[count++] = {reinterpret_cast<const char*>(x + (first * kv_heads + kv_head) * width), kv_heads * width * size, rows, width * size};
  }
  [[gnu::always_inline]] void fetch(int rows) {
    if (current == count) return;
    Rows& r = list[current];
    const char* x = r.next;
    const int64_t n = r.rows < rows ? r.rows : rows;
    for (int64_t i = 0; i < n; ++i, x += r.stride) {
      for (int64_t at = 0; at < r.bytes; at += 64) __builtin_prefetch(x + at, 0, 2);
    }
    r.next = x, r.rows -= n;
    if (r.rows == 0) ++current;
  }
};

inline constinit thread_local RowsAhead rows_ahead{};

}  // namespace retort
