// Softmax attention against a KV cache: decoding bound by the cache's bytes, prefill by arithmetic.
//
// Layer: kernels. attention() uses the pool itself; one AttentionScratch per concurrent call.
//
//   out[t, h] = sum_p softmax_p(scale q[t, h] . k[p, g]) v[p, g],   g = h / (heads / kv_heads)
//   log_norm[t, h] = log sum_p exp(scale q[t, h] . k[p, g])
// over the visible positions p: p <= t, and with a window also p > t - window or p < sinks. A token that sees nothing gets
// zeros and log_norm = -infinity. Sums run in f32 over the exact values of q and of the cache. Results do not depend on the
// number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/cpu.h"
#include "base/threads.h"

namespace retort {

enum class CacheType { kF32, kBf16 };

// Consecutive positions somewhere in memory; a ring buffer is two of them, kept sinks a third. Strides in elements.
// Keep each head's positions side by side ([kv_heads, capacity, dim]): decoding from memory is 2x faster than with
// [capacity, kv_heads, dim], because each head is then one stream.
struct CacheSpan {
  const void* keys = nullptr;    // [count, kv_heads, key_dim] by strides
  const void* values = nullptr;  // [count, kv_heads, value_dim]
  ptrdiff_t key_stride = 0, key_head_stride = 0;
  ptrdiff_t value_stride = 0, value_head_stride = 0;
  int64_t first_position = 0;
  int64_t count = 0;
};

// One sequence's new tokens. Their own keys and values are in the cache already.
struct AttentionArgs {
  const float* q = nullptr;  // [T, heads * key_dim], rotated
  ptrdiff_t q_stride = 0;
  int64_t tokens = 0;
  int64_t first_position = 0;  // of the first query
  int64_t heads = 0, kv_heads = 0, key_dim = 0, value_dim = 0;
  CacheType type = CacheType::kBf16;
  std::span<const CacheSpan> cache;
  float scale = 1;
  int64_t window = 0, sinks = 0;  // window 0: everything before
  bool one_by_one = false;        // the same bits as if the tokens came one at a time; each reads the cache by itself
  float* out = nullptr;           // [T, heads * value_dim]
  ptrdiff_t out_stride = 0;
  float* log_norm = nullptr;      // [T, heads], or null
  ptrdiff_t log_norm_stride = 0;
};

class AttentionScratch {
 public:
  // A piece of work: all query heads of one kv head, for tokens [token, end_token) (prefill), or for one token against
  // positions [begin, end) of one span (decoding), whose partial result goes to slot `partial`.
  struct Unit {
    int32_t task, kv_head, span;
    int64_t token, end_token, begin, end, partial;
  };
  std::vector<Unit> units;
  std::vector<float> partials;
};

// Sequences of different lengths, as one parallel section.
void attention(ThreadPool& pool, std::span<const AttentionArgs> tasks, AttentionScratch& scratch, Isa isa = active_isa());
inline void attention(ThreadPool& pool, const AttentionArgs& task, AttentionScratch& scratch, Isa isa = active_isa()) {
  attention(pool, std::span(&task, 1), scratch, isa);
}

// Per instruction set.
struct AttentionKernels {
  int64_t (*prefill_scratch)(const AttentionArgs&, int64_t tokens);  // floats
  void (*prefill)(const AttentionArgs&, const AttentionScratch::Unit&, float* scratch);
  // partial: for each query head of the kv head {max, sum, acc[value_dim]}
  void (*decode)(const AttentionArgs&, const AttentionScratch::Unit&, float* partial);
  // Joins `count` partials, `stride` floats apart, in order.
  void (*combine)(const float* partials, int64_t count, int64_t stride, int64_t value_dim, float* out, float* log_norm);
};
const AttentionKernels& attention_scalar();
const AttentionKernels& attention_avx2();
const AttentionKernels& attention_neon();
const AttentionKernels& attention_avx512();

}  // namespace retort
