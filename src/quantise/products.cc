#include "quantise/products.h"

#include <vector>

#include "base/error.h"
#include "kernels/matmul.h"

namespace retort {

void add_product(const MatrixView& a, const MatrixView& b, float* y, int64_t y_stride, ThreadPool& pool, ProductPrecision precision) {
  RETORT_CHECK(a.columns == b.columns, a.columns, " and ", b.columns);
  if (a.rows == 0 || b.rows == 0 || a.columns == 0) return;
  std::vector<const float*> rows;
  for (int64_t i = 0; i < b.rows; ++i) rows.push_back(b.data + i * b.stride);
  const bool bf16 = precision == ProductPrecision::kBf16;
  const auto packed = PackedMatrix::pack_f32(bf16 ? BlockFormat::kBF16 : BlockFormat::kF32, b.columns, rows, &pool);
  RETORT_CHECK(packed.ok(), packed.error().message);
  Activations x;
  x.set(a.data, a.rows, a.columns, a.stride);
  MatmulJob job{&*packed, y, y_stride};
  job.epilogue = Epilogue::kAdd;
  job.bf16_activations = bf16;
  matmul(pool, x, job);
}

}  // namespace retort
