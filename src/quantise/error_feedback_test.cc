#include "quantise/error_feedback.h"

#include <cmath>

#include <gtest/gtest.h>

#include "quantise/level_search.h"
#include "runtime/random.h"

namespace retort {
namespace {

constexpr int kColumns = 96, kRows = 40;

std::vector<float> random_numbers(size_t count, uint64_t seed) {
  Random random(seed);
  std::vector<float> out(count);
  for (float& v : out) v = float(random.uniform() + random.uniform() + random.uniform() - 1.5);
  return out;
}

// Inputs as a model's are: a few directions have most of their energy.
std::vector<std::vector<float>> correlated_inputs(int rows) {
  const auto directions = random_numbers(8 * kColumns, 3);
  std::vector<std::vector<float>> x;
  for (int r = 0; r < rows; ++r) {
    const auto shares = random_numbers(8, 100 + uint64_t(r)), noise = random_numbers(kColumns, 5000 + uint64_t(r));
    std::vector<float> row(kColumns);
    for (int c = 0; c < kColumns; ++c) {
      row[size_t(c)] = 0.2f * noise[size_t(c)];
      for (int d = 0; d < 8; ++d) row[size_t(c)] += shares[size_t(d)] * directions[size_t(d * kColumns + c)];
    }
    x.push_back(row);
  }
  return x;
}

InputMoments moments_of(const std::vector<std::vector<float>>& x) {
  InputMoments m;
  m.blocks.push_back({0, kColumns, std::vector<float>(kColumns * kColumns)});
  m.rows = int64_t(x.size());
  for (const auto& row : x) {
    for (int i = 0; i < kColumns; ++i) {
      for (int j = 0; j < kColumns; ++j) m.blocks[0].sum[size_t(i * kColumns + j)] += row[size_t(i)] * row[size_t(j)];
    }
  }
  return m;
}

// As a reader of the file sees them.
std::vector<float> decoded(TensorType type, const RoundedRows& rounded, ThreadPool& pool) {
  const std::vector<std::byte> bytes = rounded.blocks(type, pool);
  std::vector<float> out(kRows * kColumns);
  for (int r = 0; r < kRows; ++r) dequantise_row(type, bytes.data() + r * row_bytes(type, kColumns), out.data() + r * kColumns, kColumns);
  return out;
}

// Of the outputs, over their energy.
double output_error(const std::vector<std::vector<float>>& x, const std::vector<float>& w, const std::vector<float>& q) {
  double error = 0, energy = 0;
  for (const auto& row : x) {
    for (int r = 0; r < kRows; ++r) {
      double y = 0, e = 0;
      for (int c = 0; c < kColumns; ++c) {
        y += double(row[size_t(c)]) * w[size_t(r * kColumns + c)];
        e += double(row[size_t(c)]) * (double(w[size_t(r * kColumns + c)]) - q[size_t(r * kColumns + c)]);
      }
      error += e * e, energy += y * y;
    }
  }
  return error / energy;
}

TEST(ErrorFeedback, TheFactorIsThatOfTheInverse) {
  ThreadPool pool(2);
  const InputMoments m = moments_of(correlated_inputs(300));
  const auto factor = FeedbackFactor::of(m, pool);
  ASSERT_TRUE(factor.ok());
  const auto& u = factor->blocks().front().upper;
  const auto& sum = m.blocks.front().sum;
  double mean = 0;
  for (int i = 0; i < kColumns; ++i) mean += sum[size_t(i * kColumns + i)] / kColumns;
  // U^T U (H + 0.01 mean I) is the identity.
  for (int i = 0; i < kColumns; i += 7) {
    for (int j = 0; j < kColumns; ++j) {
      double product = 0;
      for (int k = 0; k < kColumns; ++k) {
        double inverse = 0;
        for (int l = 0; l <= std::min(i, k); ++l) inverse += double(u[size_t(l * kColumns + i)]) * u[size_t(l * kColumns + k)];
        const double h = sum[size_t(std::min(k, j) * kColumns + std::max(k, j))] + (k == j ? 0.01 * mean : 0);
        product += inverse * h;
      }
      ASSERT_NEAR(product, i == j ? 1 : 0, 2e-4) << i << " " << j;
    }
  }
}

TEST(ErrorFeedback, OutputsOfOtherInputsAreCloserThanToTheNearest) {
  ThreadPool pool(2);
  auto x = correlated_inputs(600);
  const std::vector<std::vector<float>> seen(x.begin(), x.begin() + 300), unseen(x.begin() + 300, x.end());
  const auto w = random_numbers(kRows * kColumns, 7);
  const auto factor = FeedbackFactor::of(moments_of(seen), pool);
  ASSERT_TRUE(factor.ok());
  for (TensorType type : {TensorType::kQ4_1, TensorType::kQ4_0, TensorType::kQ8_0}) {
    const auto nearest = decoded(type, round_to_nearest(type, kRows, kColumns, w.data(), pool), pool);
    const auto fed_back = decoded(type, round_by_feedback(type, kRows, kColumns, w.data(), *factor, pool), pool);
    const double before = output_error(unseen, w, nearest), after = output_error(unseen, w, fed_back);
    EXPECT_LT(before, type == TensorType::kQ8_0 ? 1e-4 : 2e-2) << tensor_type_name(type);
    EXPECT_LT(after, 0.5 * before) << tensor_type_name(type);
    double least = 1e9;
    for (size_t i = 0; i < w.size(); ++i) least = std::min(least, double(std::abs(w[i] - nearest[i])));
    EXPECT_LT(least, 1e-2);
  }
}

// Weights that are on a grid already stay where they are, whatever the inputs: 4-bit models are not rounded twice.
TEST(ErrorFeedback, WhatIsOnAGridStays) {
  ThreadPool pool(1);
  const auto rough = random_numbers(kRows * kColumns, 9);
  const auto w = decoded(TensorType::kQ4_1, round_to_nearest(TensorType::kQ4_1, kRows, kColumns, rough.data(), pool), pool);
  const auto factor = FeedbackFactor::of(moments_of(correlated_inputs(200)), pool);
  ASSERT_TRUE(factor.ok());
  const auto again = decoded(TensorType::kQ4_1, round_by_feedback(TensorType::kQ4_1, kRows, kColumns, w.data(), *factor, pool), pool);
  for (size_t i = 0; i < w.size(); ++i) ASSERT_NEAR(w[i], again[i], 2e-3) << i;
}

TEST(ErrorFeedback, InputsThatAreNoNumbersAreRefused) {
  ThreadPool pool(1);
  InputMoments m = moments_of(correlated_inputs(40));
  m.blocks[0].sum[5 * kColumns + 5] = NAN;
  EXPECT_FALSE(FeedbackFactor::of(m, pool).ok());
}

TEST(ErrorFeedback, SilentInputsAreRoundedToo) {
  ThreadPool pool(1);
  InputMoments m = moments_of({std::vector<float>(kColumns, 0.0f)});
  const auto factor = FeedbackFactor::of(m, pool);
  ASSERT_TRUE(factor.ok());
  const auto w = random_numbers(kRows * kColumns, 11);
  const auto q = decoded(TensorType::kQ4_0, round_by_feedback(TensorType::kQ4_0, kRows, kColumns, w.data(), *factor, pool), pool);
  for (size_t i = 0; i < w.size(); ++i) ASSERT_NEAR(w[i], q[i], 0.25) << i;
}

// Searched on inputs that were seen, and better on others too.
TEST(LevelSearch, LowersTheErrorThatFeedbackLeft) {
  ThreadPool pool(2);
  auto x = correlated_inputs(1200);
  const std::vector<std::vector<float>> seen(x.begin(), x.begin() + 900), unseen(x.begin() + 900, x.end());
  const auto w = random_numbers(kRows * kColumns, 13);
  const auto factor = FeedbackFactor::of(moments_of(seen), pool);
  ASSERT_TRUE(factor.ok());
  for (TensorType type : {TensorType::kQ4_1, TensorType::kQ4_0}) {
    SCOPED_TRACE(tensor_type_name(type));
    RoundedRows rounded = round_by_feedback(type, kRows, kColumns, w.data(), *factor, pool);
    const double before = output_error(unseen, w, decoded(type, rounded, pool));
    LevelSearch search(factor->blocks().front(), w.data(), rounded, pool);
    double error = search.error();
    const double at_first = error;
    for (int i = 0; i < 4; ++i) {
      search.sweep();
      EXPECT_LE(search.error(), error * (1 + 1e-5));  // sums in f32
      error = search.error();
    }
    EXPECT_LT(error, 0.85 * at_first);
    // What was kept up to date is what a new beginning finds.
    EXPECT_NEAR(LevelSearch(factor->blocks().front(), w.data(), rounded, pool).error(), error, 1e-3 * error);
    EXPECT_LT(output_error(unseen, w, decoded(type, rounded, pool)), 0.9 * before);
  }
}

TEST(LevelSearch, LeavesWhatIsOnAGrid) {
  ThreadPool pool(1);
  const auto rough = random_numbers(kRows * kColumns, 9);
  const auto w = decoded(TensorType::kQ4_1, round_to_nearest(TensorType::kQ4_1, kRows, kColumns, rough.data(), pool), pool);
  const auto factor = FeedbackFactor::of(moments_of(correlated_inputs(200)), pool);
  ASSERT_TRUE(factor.ok());
  RoundedRows rounded = round_by_feedback(TensorType::kQ4_1, kRows, kColumns, w.data(), *factor, pool);
  LevelSearch search(factor->blocks().front(), w.data(), rounded, pool);
  search.sweep();
  const auto again = decoded(TensorType::kQ4_1, rounded, pool);
  for (size_t i = 0; i < w.size(); ++i) ASSERT_NEAR(w[i], again[i], 2e-3) << i;
}

TEST(BlockGrid, ABlockOfZerosIsZero) {
  const float w[kGridBlock] = {}, weight[kGridBlock] = {};
  for (TensorType type : {TensorType::kQ4_1, TensorType::kQ4_0, TensorType::kQ8_0}) {
    const BlockGrid grid = choose_grid(type, w, weight);
    EXPECT_EQ(grid.value(grid.level(0)), 0) << tensor_type_name(type);
  }
}

}  // namespace
}  // namespace retort
