#include "kernels/attention.h"

#include <algorithm>

namespace retort {
namespace {

constexpr int64_t kDecodeTokens = 4;    // up to here each token reads the cache by itself
constexpr int64_t kSplit = 256;         // positions per unit when decoding: fixed, so threads do not change the result
constexpr int64_t kPrefillRows = 192;   // query rows (tokens x heads of a kv head) that share a packed tile of keys

const AttentionKernels& kernels_for(Isa isa) {
  switch (isa) {
    case Isa::kAmx:
    case Isa::kAvx512: return attention_avx512();
    case Isa::kAvx2: return attention_avx2();
    case Isa::kNeon:
    case Isa::kNeonDot: return attention_neon();
    case Isa::kScalar: break;
  }
  return attention_scalar();
}

float* thread_buffer(int64_t floats) {
  thread_local std::vector<float> buffer;
  const size_t size = size_t(floats) + 16;
  if (buffer.size() < size) buffer.resize(size);
  return buffer.data() + (16 - reinterpret_cast<uintptr_t>(buffer.data()) / 4 % 16) % 16;
}

// Whole vectors only: other sizes take the prefill path, which packs what it reads.
bool decodes(const AttentionArgs& a) {
  return (a.tokens <= kDecodeTokens || a.one_by_one) && a.key_dim % 16 == 0 && a.value_dim % 16 == 0;
}

int64_t partial_floats(const AttentionArgs& a) { return a.heads / a.kv_heads * (a.value_dim + 2); }

// Visible positions of a span as at most two ranges of indices: the sinks, and the window up to the query.
void visible_ranges(const AttentionArgs& a, const CacheSpan& s, int64_t position, int64_t (&begin)[2], int64_t (&end)[2]) {
  const auto index = [&](int64_t p) { return std::clamp<int64_t>(p - s.first_position, 0, s.count); };
  end[1] = index(position + 1);
  begin[1] = a.window > 0 ? std::min(index(position + 1 - a.window), end[1]) : 0;
  begin[0] = 0;
  end[0] = a.window > 0 ? std::min(index(a.sinks), begin[1]) : 0;
}

void add_decode_units(const AttentionArgs& a, int32_t task, AttentionScratch& scratch, int64_t& floats) {
  for (int64_t t = 0; t < a.tokens; ++t) {
    for (int32_t g = 0; g < a.kv_heads; ++g) {
      for (int32_t s = 0; s < int32_t(a.cache.size()); ++s) {
        int64_t begin[2], end[2];
        visible_ranges(a, a.cache[size_t(s)], a.first_position + t, begin, end);
        for (int range = 0; range < 2; ++range) {
          for (int64_t i = begin[range]; i < end[range]; i += kSplit) {
            scratch.units.push_back({task, g, s, t, t + 1, i, std::min(end[range], i + kSplit), floats});
            floats += partial_floats(a);
          }
        }
      }
    }
  }
}

void add_prefill_units(const AttentionArgs& a, int32_t task, AttentionScratch& scratch) {
  const int64_t block = a.one_by_one ? 1 : std::max<int64_t>(1, kPrefillRows / (a.heads / a.kv_heads));
  // The last tokens see most: the longest pieces of work are claimed first.
  for (int64_t end = a.tokens; end > 0; end -= std::min(block, end))
    for (int32_t g = 0; g < a.kv_heads; ++g)
      scratch.units.push_back({task, g, 0, std::max<int64_t>(0, end - block), end, 0, 0, -1});
}

// Units of one (task, token, kv head) stand side by side.
void combine_units(std::span<const AttentionArgs> tasks, const AttentionScratch& scratch, const AttentionKernels& kernels) {
  const auto& units = scratch.units;
  for (size_t i = 0, next; i < units.size(); i = next) {
    const auto& u = units[i];
    const auto same = [&](const auto& v) { return v.task == u.task && v.token == u.token && v.kv_head == u.kv_head; };
    for (next = i; next < units.size() && same(units[next]);) ++next;
    if (u.partial < 0) continue;
    const AttentionArgs& a = tasks[size_t(u.task)];
    const int64_t n = a.heads / a.kv_heads;
    for (int64_t r = 0; r < n; ++r) {
      const int64_t h = u.kv_head * n + r;
      float norm;
      kernels.combine(scratch.partials.data() + u.partial + r * (a.value_dim + 2), int64_t(next - i), partial_floats(a),
                      a.value_dim, a.out + u.token * a.out_stride + h * a.value_dim, &norm);
      if (a.log_norm) a.log_norm[u.token * a.log_norm_stride + h] = norm;
    }
  }
}

void clear_outputs(const AttentionArgs& a) {  // decoding units exist only where something is visible
  for (int64_t t = 0; t < a.tokens; ++t) {
    std::fill_n(a.out + t * a.out_stride, a.heads * a.value_dim, 0.0f);
    if (a.log_norm) std::fill_n(a.log_norm + t * a.log_norm_stride, a.heads, -__builtin_inff());
  }
}

}  // namespace

void attention(ThreadPool& pool, std::span<const AttentionArgs> tasks, AttentionScratch& scratch, Isa isa) {
  const AttentionKernels& kernels = kernels_for(isa);
  scratch.units.clear();
  int64_t floats = 0;
  for (size_t i = 0; i < tasks.size(); ++i) {
    if (decodes(tasks[i])) {
      clear_outputs(tasks[i]);
      add_decode_units(tasks[i], int32_t(i), scratch, floats);
    } else {
      add_prefill_units(tasks[i], int32_t(i), scratch);
    }
  }
  if (int64_t(scratch.partials.size()) < floats) scratch.partials.resize(size_t(floats));
  pool.run_chunks(int64_t(scratch.units.size()), [&](int64_t i) {
    const auto& unit = scratch.units[size_t(i)];
    const AttentionArgs& a = tasks[size_t(unit.task)];
    if (unit.partial >= 0) kernels.decode(a, unit, scratch.partials.data() + unit.partial);
    else kernels.prefill(a, unit, thread_buffer(kernels.prefill_scratch(a, unit.end_token - unit.token)));
  });
  combine_units(tasks, scratch, kernels);
}

}  // namespace retort
