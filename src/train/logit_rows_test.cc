#include "train/logit_rows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>


namespace retort::train::rows {
namespace {

using Bits = std::vector<uint16_t>;

float wide(uint16_t x) { return __builtin_bit_cast(float, uint32_t(x) << 16); }

Bits random_logits(int64_t n, float spread, int seed) {
  std::mt19937 random(static_cast<unsigned>(seed));
  std::normal_distribution<float> normal(3, spread);
  Bits out;
  for (int64_t i = 0; i < n; ++i) out.push_back(uint16_t(__builtin_bit_cast(uint32_t, normal(random)) >> 16));
  return out;
}

std::vector<double> log_softmax(const Bits& x, double temperature) {
  double largest = -1e300, sum = 0;
  for (const uint16_t v : x) largest = std::max(largest, wide(v) / temperature);
  for (const uint16_t v : x) sum += std::exp(wide(v) / temperature - largest);
  std::vector<double> out;
  for (const uint16_t v : x) out.push_back(wide(v) / temperature - largest - std::log(sum));
  return out;
}

// Widths around the lanes and the stretches; spreads from nearly even to one token.
class LogitRows : public testing::TestWithParam<std::tuple<int64_t, float>> {
 protected:
  const int64_t n_ = std::get<0>(GetParam());
  const Bits student_ = random_logits(n_, std::get<1>(GetParam()), 1), teacher_ = random_logits(n_, std::get<1>(GetParam()), 2);
};

TEST_P(LogitRows, AreTheLossesOfDoubles) {
  LogitRow row(n_);
  row.begin(student_.data());
  Bits bits(size_t(n_), 0xffff);
  row.end(bits.data());
  EXPECT_EQ(bits, Bits(size_t(n_), 0)) << "nothing added";

  row.begin(student_.data());
  const int64_t token = n_ / 2;
  const auto soft = row.add_soft(teacher_.data(), 2, 0.75f);
  const double hard = row.add_hard(token, 0.5f);
  row.end(bits.data());
  const auto q = log_softmax(student_, 2), p = log_softmax(teacher_, 2), plain = log_softmax(student_, 1);
  double cross = 0, entropy = 0;
  for (size_t i = 0; i < q.size(); ++i) cross -= std::exp(p[i]) * q[i], entropy -= std::exp(p[i]) * p[i];
  EXPECT_NEAR(soft.cross, cross, 2e-6 * (1 + cross));
  EXPECT_NEAR(soft.entropy, entropy, 2e-6 * (1 + cross));
  EXPECT_NEAR(hard, -plain[size_t(token)], 2e-6 * (1 + hard));
  for (size_t i = 0; i < q.size(); ++i) {
    const double expected = 0.75 * (std::exp(q[i]) - std::exp(p[i])) + 0.5 * (std::exp(plain[i]) - (int64_t(i) == token ? 1 : 0));
    ASSERT_NEAR(wide(bits[i]), expected, std::abs(expected) / 250 + 1e-7) << i;
  }
}

TEST_P(LogitRows, WhatIsNotFiniteIsNoLoss) {
  for (const float odd : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const size_t at : {size_t(0), size_t(n_ - 1)}) {
      Bits broken = student_;
      broken[at] = uint16_t(__builtin_bit_cast(uint32_t, odd) >> 16);
      LogitRow row(n_);
      row.begin(broken.data());
      EXPECT_TRUE(std::isnan(row.add_soft(teacher_.data(), 1, 1).cross));
      EXPECT_TRUE(std::isnan(row.add_hard(n_ / 2, 1)));
      row.begin(student_.data());
      const auto soft = row.add_soft(broken.data(), 1, 1);
      EXPECT_TRUE(std::isnan(soft.cross) && std::isnan(soft.entropy));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Widths, LogitRows, testing::Combine(testing::Values(3, 16, 49, 4096, 4099, 49152), testing::Values(0.01f, 3.0f, 30.0f)));

}  // namespace
}  // namespace retort::train::rows
