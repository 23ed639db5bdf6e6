// Products of matrices that are inputs, moments and weights here, on the runtime's kernels.
//
// Layer: quantise. The work uses the pool.
#pragma once

#include <cstdint>

#include "base/threads.h"

namespace retort {

struct MatrixView {
  const float* data;
  int64_t rows, columns, stride;
};

enum class ProductPrecision { kF32, kBf16 };  // kBf16: both sides rounded, sums in f32

// y[m, n] += a[m, k] b[n, k]^T, rows of y `y_stride` apart.
void add_product(const MatrixView& a, const MatrixView& b, float* y, int64_t y_stride, ThreadPool& pool,
                 ProductPrecision precision = ProductPrecision::kF32);

}  // namespace retort
