#include "quantise/rounded_rows.h"

namespace retort {

std::vector<std::byte> RoundedRows::blocks(TensorType type, ThreadPool& pool) const {
  const auto bytes = int64_t(tensor_type_info(type).block_bytes);
  std::vector<std::byte> out(grids.size() * size_t(bytes));
  pool.parallel_for(int64_t(grids.size()), 256, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) put_block(type, grids[size_t(b)], levels.data() + b * kGridBlock, out.data() + b * bytes);
  });
  return out;
}

}  // namespace retort
