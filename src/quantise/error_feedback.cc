#include "quantise/error_feedback.h"

#include <algorithm>
#include <cmath>

#include "quantise/products.h"

namespace retort {
namespace {

constexpr double kDamping = 0.01;       // of the mean of the diagonal
constexpr int kFeedbackColumns = 128;   // whose errors reach the columns after them in one product

double dot(const double* a, const double* b, int64_t n) {
  double sums[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int64_t j = 0; j < 8; ++j) sums[j] += a[i + j] * b[i + j];
  }
  for (; i < n; ++i) sums[0] += a[i] * b[i];
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

// L, lower triangular, with A = L L^T; of A [n, n] the lower triangle is read and overwritten. False: A is not positive.
bool cholesky(std::vector<double>& a, int64_t n, ThreadPool& pool) {
  for (int64_t j = 0; j < n; ++j) {
    double* row = a.data() + j * n;
    const double rest = row[j] - dot(row, row, j);
    if (!(rest > 0 && std::isfinite(rest))) return false;
    row[j] = std::sqrt(rest);
    pool.parallel_for(n - j - 1, 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = j + 1 + begin; i < j + 1 + end; ++i) {
        double* below = a.data() + i * n;
        below[j] = (below[j] - dot(below, row, j)) / row[j];
      }
    });
  }
  return true;
}

// (L^-1)^T of a lower triangular L.
std::vector<double> inverse_transposed(const std::vector<double>& l, int64_t n, ThreadPool& pool) {
  std::vector<double> out(size_t(n * n));
  pool.run_chunks(n, [&](int64_t j) {
    double* column = out.data() + j * n;  // of the inverse
    column[j] = 1 / l[size_t(j * n + j)];
    for (int64_t i = j + 1; i < n; ++i) column[i] = -dot(l.data() + i * n + j, column + j, i - j) / l[size_t(i * n + i)];
  });
  return out;
}

// With the order of rows and columns turned round, P H P = L L^T gives H = (P L P)(P L P)^T with P L P upper triangular, and its inverse
// is the factor that is wanted.
bool factorise(const MomentBlock& moments, FeedbackFactor::Block& block, ThreadPool& pool) {
  const int64_t n = block.count;
  double mean = 0;
  for (int64_t i = 0; i < n; ++i) mean += double(moments.sum[size_t(i * n + i)]) / double(n);
  if (!std::isfinite(mean)) return false;
  block.damped = moments.sum;
  for (int64_t i = 0; i < n; ++i) block.damped[size_t(i * n + i)] += float(mean > 0 ? kDamping * mean : 1);
  std::vector<double> turned(size_t(n * n));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) turned[size_t(i * n + j)] = double(block.damped[size_t((n - 1 - i) * n + (n - 1 - j))]);
  }
  if (!cholesky(turned, n, pool)) return false;
  const std::vector<double> inverse = inverse_transposed(turned, n, pool);
  block.upper.assign(size_t(n * n), 0);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) block.upper[size_t(i * n + j)] = float(inverse[size_t((n - 1 - j) * n + (n - 1 - i))]);
  }
  return true;
}

// Rounds one block of columns of all rows, from left to right.
class Feedback {
 public:
  // w [rows, columns] has what is to be rounded, and is overwritten.
  Feedback(TensorType type, const FeedbackFactor::Block& block, std::vector<float>& w, RoundedRows& out, ThreadPool& pool)
      : type_(type), block_(block), w_(w), out_(out), pool_(pool) {}

  void run() {
    for (int at = 0; at < block_.count; at += kFeedbackColumns) {
      const int count = std::min(kFeedbackColumns, block_.count - at);
      errors_.assign(size_t(out_.rows * count), 0);
      pool_.parallel_for(out_.rows, 1, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          for (int i = 0; i < count; i += kGridBlock) round_columns(r, at + i, count - i, errors_.data() + r * count + i);
        }
      });
      pass_on(at, count);
    }
  }

 private:
  const float* upper(int row) const { return block_.upper.data() + size_t(row) * size_t(block_.count); }

  // 32 columns of a row. Their errors go into the first `reach` columns from `at` on.
  void round_columns(int64_t row, int at, int reach, float* errors) {
    float weight[kGridBlock];
    for (int i = 0; i < kGridBlock; ++i) weight[i] = 1 / (upper(at + i)[at + i] * upper(at + i)[at + i]);
    float* w = w_.data() + row * out_.columns + block_.first + at;
    const BlockGrid grid = choose_grid(type_, w, weight);
    out_.grid(row, block_.first + at) = grid;
    for (int i = 0; i < kGridBlock; ++i) {
      const int level = grid.level(w[i]);
      out_.level(row, block_.first + at + i) = int8_t(level);
      const float* u = upper(at + i) + at;
      errors[i] = (w[i] - grid.value(level)) / u[i];
      for (int j = i + 1; j < reach; ++j) w[j] -= errors[i] * u[j];
    }
  }

  // The errors of columns [at, at + count) into the columns after those.
  void pass_on(int at, int count) {
    const int from = at + count, rest = block_.count - from;
    std::vector<float> turned(size_t(rest) * size_t(count));
    for (int i = 0; i < count; ++i) {
      for (int j = 0; j < rest; ++j) turned[size_t(j) * size_t(count) + size_t(i)] = -upper(at + i)[from + j];
    }
    add_product({errors_.data(), out_.rows, count, count}, {turned.data(), rest, count, count}, w_.data() + block_.first + from, out_.columns, pool_);
  }

  TensorType type_;
  const FeedbackFactor::Block& block_;
  std::vector<float>& w_;
  RoundedRows& out_;
  ThreadPool& pool_;
  std::vector<float> errors_;  // of the columns in hand, over the diagonal of U
};

}  // namespace

Result<FeedbackFactor> FeedbackFactor::of(const InputMoments& moments, ThreadPool& pool) {
  FeedbackFactor factor;
  for (const MomentBlock& block : moments.blocks) {
    factor.blocks_.push_back({block.first, block.count, {}, {}});
    if (!factorise(block, factor.blocks_.back(), pool)) return invalid("the inputs on the calibration text are not finite");
  }
  return factor;
}

RoundedRows round_by_feedback(TensorType type, int64_t rows, int64_t columns, const float* w, const FeedbackFactor& factor, ThreadPool& pool) {
  RoundedRows out(rows, columns);
  std::vector<float> left(w, w + rows * columns);
  for (const auto& block : factor.blocks()) Feedback(type, block, left, out, pool).run();
  return out;
}

RoundedRows round_to_nearest(TensorType type, int64_t rows, int64_t columns, const float* w, ThreadPool& pool) {
  RETORT_CHECK(columns % kGridBlock == 0, "rows of ", columns);
  float weight[kGridBlock];
  std::fill_n(weight, kGridBlock, 1.0f);
  RoundedRows out(rows, columns);
  pool.parallel_for(int64_t(out.grids.size()), 16, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const float* block = w + b * kGridBlock;
      const BlockGrid grid = choose_grid(type, block, weight);
      out.grids[size_t(b)] = grid;
      for (int j = 0; j < kGridBlock; ++j) out.levels[size_t(b * kGridBlock + j)] = int8_t(grid.level(block[j]));
    }
  });
  return out;
}

}  // namespace retort
