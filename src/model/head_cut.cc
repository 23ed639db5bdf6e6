#include "model/head_cut.h"

#include "base/error.h"

namespace retort {
namespace {

// Of [outer, heads * inner] the kept heads' columns, or with outer 1 their rows.
void append_heads(std::span<const float> values, int64_t outer, int64_t heads, std::span<const int64_t> kept, std::vector<float>& out) {
  const int64_t columns = int64_t(values.size()) / outer, inner = columns / heads;
  RETORT_CHECK(inner * heads * outer == int64_t(values.size()), "a tensor that its heads do not divide");
  for (int64_t row = 0; row < outer; ++row) {
    for (const int64_t head : kept) {
      const float* from = values.data() + row * columns + head * inner;
      out.insert(out.end(), from, from + inner);
    }
  }
}

}  // namespace

std::vector<float> cut_heads(const TensorSpec& spec, int kv_heads, int group, std::span<const float> values, std::span<const int> kept) {
  if (spec.heads == HeadAxis::kShared) return {values.begin(), values.end()};
  const std::vector<int64_t> kv(kept.begin(), kept.end());
  std::vector<int64_t> query;
  for (const int64_t g : kv) {
    for (int i = 0; i < group; ++i) query.push_back(g * group + i);
  }
  const int64_t heads = int64_t(kv_heads) * group;
  std::vector<float> out;
  switch (spec.heads) {
    case HeadAxis::kShared: break;
    case HeadAxis::kQueryRows: append_heads(values, 1, heads, query, out); break;
    case HeadAxis::kKvRows: append_heads(values, 1, kv_heads, kv, out); break;
    case HeadAxis::kQueryColumns: append_heads(values, spec.shape[0], heads, query, out); break;
    case HeadAxis::kRowsOfBlocks: {
      const int64_t row = spec.count() / spec.shape[0];
      int64_t first = 0;
      for (const InitBlock& block : spec.init) {
        const int64_t rows = block.rows > 0 ? block.rows : spec.shape[0] - first;
        append_heads(values.subspan(size_t(first * row), size_t(rows * row)), 1, block.by_kv_head ? kv_heads : heads, block.by_kv_head ? kv : query, out);
        first += rows;
      }
    }
  }
  return out;
}

}  // namespace retort
