#include "quantise/error_feedback.h"

#include <algorithm>
#include <cmath>

#include "quantise/block_grid.h"

namespace retort {
namespace {

constexpr double kDamping = 0.01;  // of the mean of the diagonal
constexpr int64_t kRowsAtOnce = 8; // of the matrix, for every read of the factor

double dot(const double* a, const double* b, int64_t n) {
  double sums[4] = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    for (int64_t j = 0; j < 4; ++j) sums[j] += a[i + j] * b[i + j];
  }
  for (; i < n; ++i) sums[0] += a[i] * b[i];
  return sums[0] + sums[1] + sums[2] + sums[3];
}

// L, lower triangular, with A = L L^T; A [n, n] is overwritten. False: A is not positive.
bool cholesky(std::vector<double>& a, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    double* row = a.data() + i * n;
    for (int64_t j = 0; j <= i; ++j) {
      const double* other = a.data() + j * n;
      const double rest = row[j] - dot(row, other, j);
      if (j < i) row[j] = rest / other[j];
      else if (rest > 0 && std::isfinite(rest)) row[j] = std::sqrt(rest);
      else return false;
    }
  }
  return true;
}

// L^-1 of a lower triangular L.
std::vector<double> lower_inverse(const std::vector<double>& l, int64_t n) {
  std::vector<double> inverse(size_t(n * n));
  for (int64_t i = 0; i < n; ++i) {
    const double* row = l.data() + i * n;
    double* out = inverse.data() + i * n;
    for (int64_t k = 0; k < i; ++k) {
      const double* above = inverse.data() + k * n;
      for (int64_t j = 0; j <= k; ++j) out[j] -= row[k] * above[j];
    }
    for (int64_t j = 0; j < i; ++j) out[j] /= row[i];
    out[i] = 1 / row[i];
  }
  return inverse;
}

// With the order of rows and columns turned round, P A P = L L^T gives A = (P L P)(P L P)^T with P L P upper triangular, and its inverse
// is the factor that is wanted.
bool inverse_factor(const MomentBlock& block, std::vector<float>& upper) {
  const int64_t n = block.count;
  const auto moment = [&](int64_t i, int64_t j) { return double(block.sum[size_t(std::min(i, j) * n + std::max(i, j))]); };
  double mean = 0;
  for (int64_t i = 0; i < n; ++i) mean += moment(i, i) / double(n);
  if (!std::isfinite(mean)) return false;
  const double damping = mean > 0 ? kDamping * mean : 1;
  std::vector<double> turned(size_t(n * n));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) turned[size_t(i * n + j)] = moment(n - 1 - i, n - 1 - j) + (i == j ? damping : 0);
  }
  if (!cholesky(turned, n)) return false;
  const std::vector<double> inverse = lower_inverse(turned, n);
  upper.assign(size_t(n * n), 0);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) upper[size_t(i * n + j)] = float(inverse[size_t((n - 1 - i) * n + (n - 1 - j))]);
  }
  return true;
}

// Up to kRowsAtOnce rows of the matrix, rounded together.
class RowGroup {
 public:
  RowGroup(TensorType type, int64_t rows, int64_t columns, const float* w)
      : type_(type), rows_(rows), columns_(columns), w_(w, w + rows * columns), errors_(size_t(rows * kGridBlock)) {}

  // out: the rows' blocks.
  void round(const FeedbackFactor& factor, std::byte* out) {
    for (const auto& block : factor.blocks()) {
      for (int at = 0; at < block.count; at += kGridBlock) round_columns(block, at, out);
    }
  }

 private:
  void round_columns(const FeedbackFactor::Block& block, int at, std::byte* out) {
    float weight[kGridBlock];
    for (int i = 0; i < kGridBlock; ++i) {
      const float u = block.upper[size_t(at + i) * size_t(block.count) + size_t(at + i)];
      weight[i] = 1 / (u * u);
    }
    for (int64_t r = 0; r < rows_; ++r) {
      float* w = w_.data() + r * columns_ + block.first + at;
      const BlockGrid grid = choose_grid(type_, w, weight);
      int levels[kGridBlock];
      for (int i = 0; i < kGridBlock; ++i) {
        levels[i] = grid.level(w[i]);
        const float* u = block.upper.data() + size_t(at + i) * size_t(block.count) + at;
        const float error = (w[i] - grid.value(levels[i])) / u[i];
        errors_[size_t(r * kGridBlock + i)] = error;
        for (int j = i + 1; j < kGridBlock; ++j) w[j] -= error * u[j];
      }
      const int64_t index = (r * columns_ + block.first + at) / kGridBlock;
      put_block(type_, grid, levels, out + index * tensor_type_info(type_).block_bytes);
    }
    for (int i = 0; i < kGridBlock; ++i) {
      const float* u = block.upper.data() + size_t(at + i) * size_t(block.count);
      for (int64_t r = 0; r < rows_; ++r) {
        const float error = errors_[size_t(r * kGridBlock + i)];
        float* w = w_.data() + r * columns_ + block.first;
        for (int j = at + kGridBlock; j < block.count; ++j) w[j] -= error * u[j];
      }
    }
  }

  TensorType type_;
  int64_t rows_, columns_;
  std::vector<float> w_, errors_;
};

// fn(first row, rows, where their blocks go)
template <class Fn>
std::vector<std::byte> by_row_groups(TensorType type, int64_t rows, int64_t columns, ThreadPool& pool, Fn&& fn) {
  RETORT_CHECK(columns % kGridBlock == 0, "rows of ", columns);
  const int64_t bytes = row_bytes(type, columns);
  std::vector<std::byte> out(size_t(rows * bytes));
  pool.parallel_for((rows + kRowsAtOnce - 1) / kRowsAtOnce, 1, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      const int64_t first = g * kRowsAtOnce;
      fn(first, std::min(kRowsAtOnce, rows - first), out.data() + first * bytes);
    }
  });
  return out;
}

}  // namespace

Result<FeedbackFactor> FeedbackFactor::of(const InputMoments& moments, ThreadPool& pool) {
  FeedbackFactor factor;
  for (const MomentBlock& block : moments.blocks) factor.blocks_.push_back({block.first, block.count, {}});
  std::vector<char> done(moments.blocks.size());
  pool.run_chunks(int64_t(moments.blocks.size()), [&](int64_t b) { done[size_t(b)] = inverse_factor(moments.blocks[size_t(b)], factor.blocks_[size_t(b)].upper); });
  if (std::find(done.begin(), done.end(), 0) != done.end()) return invalid("the inputs on the calibration text are not finite");
  return factor;
}

std::vector<std::byte> round_with_feedback(TensorType type, int64_t rows, int64_t columns, const float* w, const FeedbackFactor& factor,
                                           ThreadPool& pool) {
  return by_row_groups(type, rows, columns, pool, [&](int64_t first, int64_t count, std::byte* out) {
    RowGroup(type, count, columns, w + first * columns).round(factor, out);
  });
}

std::vector<std::byte> round_to_nearest(TensorType type, int64_t rows, int64_t columns, const float* w, ThreadPool& pool) {
  float weight[kGridBlock];
  std::fill_n(weight, kGridBlock, 1.0f);
  return by_row_groups(type, rows, columns, pool, [&](int64_t first, int64_t count, std::byte* out) {
    const float* block = w + first * columns;
    for (int64_t i = 0; i < count * columns / kGridBlock; ++i, block += kGridBlock, out += tensor_type_info(type).block_bytes) {
      const BlockGrid grid = choose_grid(type, block, weight);
      int levels[kGridBlock];
      for (int j = 0; j < kGridBlock; ++j) levels[j] = grid.level(block[j]);
      put_block(type, grid, levels, out);
    }
  });
}

}  // namespace retort
