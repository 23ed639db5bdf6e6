#include "runtime/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace retort {
namespace {

SamplingOptions plain() { return {1.0, 0, 1.0, 0.0, 1.0, 64}; }

TEST(Sampling, GreedyTakesTheFirstOfTheLargest) {
  SamplingOptions o;
  o.temperature = 0;
  Sampler sampler(o, 1);
  const std::vector<float> logits{1, 5, 2, 5};
  for (int i = 0; i < 10; ++i) EXPECT_EQ(sampler.sample(logits, {}), 1);
}

// Whatever else speaks for them: their logits, a bias, or that no other token is left.
TEST(Sampling, SomeTokensAreNeverDrawn) {
  SamplingOptions o = plain();
  o.never = {1, 3, 4, -1, 99};
  o.logit_bias = {{3, 100.0f}};
  const std::vector<float> logits{1, 50, 0.5f, 50, 7};
  Sampler sampler(o, 1);
  std::vector<int> left;
  double mass = 0;
  for (const Candidate& c : sampler.distribution(logits, {})) left.push_back(c.token), mass += c.probability;
  EXPECT_EQ(left, (std::vector<int>{0, 2}));
  EXPECT_NEAR(mass, 1, 1e-12);
  o.temperature = 0;
  EXPECT_EQ(Sampler(o, 1).sample(logits, {}), 0);
  o.top_k = 2;
  EXPECT_EQ(Sampler(o, 1).sample(logits, {}), 0);
}

TEST(Sampling, FrequenciesFollowTheSoftmax) {
  Sampler sampler(plain(), 42);
  const std::vector<float> logits{0.0f, 1.0f, 2.0f, -1.0f};
  double sum = 0;
  for (float l : logits) sum += std::exp(l);
  std::vector<int> seen(4);
  constexpr int kDraws = 20000;
  for (int i = 0; i < kDraws; ++i) ++seen[size_t(sampler.sample(logits, {}))];
  for (size_t i = 0; i < 4; ++i) {
    const double p = std::exp(logits[i]) / sum;
    EXPECT_NEAR(double(seen[i]) / kDraws, p, 5 * std::sqrt(p * (1 - p) / kDraws)) << i;  // five standard deviations
  }
}

TEST(Sampling, TemperatureIsAppliedLast) {
  SamplingOptions o = plain();
  o.temperature = 2;
  o.top_p = 0.6;  // of the distribution at temperature 1: {0.665, 0.245, 0.090} keeps only the first
  Sampler sampler(o, 1);
  EXPECT_EQ(sampler.distribution(std::vector<float>{2, 1, 0}, {}).size(), 1u);
}

TEST(Sampling, TopKTopPMinPKeepWhatTheySay) {
  const std::vector<float> logits{std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  const auto kept = [&](auto set) {
    SamplingOptions o = plain();
    set(o);
    Sampler sampler(o, 1);
    return sampler.distribution(logits, {}).size();
  };
  EXPECT_EQ(kept([](auto&) {}), 4u);
  EXPECT_EQ(kept([](auto& o) { o.top_k = 2; }), 2u);
  EXPECT_EQ(kept([](auto& o) { o.top_k = 9; }), 4u);
  EXPECT_EQ(kept([](auto& o) { o.top_p = 0.7; }), 2u);
  EXPECT_EQ(kept([](auto& o) { o.top_p = 0.85; }), 3u);
  EXPECT_EQ(kept([](auto& o) { o.top_p = 0; }), 1u);
  EXPECT_EQ(kept([](auto& o) { o.min_p = 0.25; }), 3u);
  EXPECT_EQ(kept([](auto& o) { o.min_p = 1; }), 1u);
}

TEST(Sampling, PenaltyTouchesRecentTokensOnce) {
  SamplingOptions o = plain();
  o.repeat_penalty = 2;
  o.repeat_last_n = 2;
  Sampler sampler(o, 1);
  const std::vector<int> history{2, 0, 0, 1, 1};
  const auto d = sampler.distribution(std::vector<float>{4, -4, 3}, history);
  ASSERT_EQ(d.size(), 3u);
  EXPECT_EQ(d[0].token, 0);  // beyond the last two: untouched
  EXPECT_FLOAT_EQ(d[0].logit, 4);
  EXPECT_FLOAT_EQ(d[2].logit, -8);  // negative logits grow, and only once
}

TEST(Sampling, BiasesAndPenaltiesOfWhatWasDrawn) {
  SamplingOptions o = plain();
  o.temperature = 0;
  o.logit_bias = {{2, 10.0f}, {900, 1.0f}};
  o.presence_penalty = 3;
  o.frequency_penalty = 2;
  Sampler sampler(o, 1);
  const std::vector<float> logits{1, 0, 0.5f};  // with the bias 1, 0, 10.5; drawn once: 5.5, twice: 3.5, three times: 1.5, then -0.5
  std::vector<int> drawn;
  for (int i = 0; i < 7; ++i) drawn.push_back(sampler.sample(logits, {}));
  EXPECT_EQ(drawn, (std::vector<int>{2, 2, 2, 2, 0, 1, 2}));  // then 0 has -4, 1 has -5, 2 has -0.5
}

TEST(Sampling, SameSeedSameTokens) {
  SamplingOptions o;
  std::vector<float> logits(1000);
  Random random(3);
  for (float& l : logits) l = float(4 * random.uniform());
  Sampler a(o, 7), b(o, 7), c(o, 8);
  bool differ = false;
  for (int i = 0; i < 50; ++i) {
    const int token = a.sample(logits, {});
    EXPECT_EQ(token, b.sample(logits, {}));
    differ = differ || token != c.sample(logits, {});
  }
  EXPECT_TRUE(differ);
}

TEST(Sampling, BrokenLogitsDoNotCrash) {
  Sampler sampler(plain(), 1);
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(sampler.sample(std::vector<float>{nan, nan}, {}), 0);
  EXPECT_EQ(sampler.sample(std::vector<float>{nan, 1, -inf}, {}), 1);
  const int token = sampler.sample(std::vector<float>{inf, 1, inf}, {});
  EXPECT_GE(token, 0);
  EXPECT_LT(token, 3);
}

TEST(Sampling, OptionsOutOfRangeAreRefused) {
  for (auto set : std::vector<void (*)(SamplingOptions&)>{
           [](auto& o) { o.temperature = -1; }, [](auto& o) { o.top_k = -1; }, [](auto& o) { o.top_p = 1.5; },
           [](auto& o) { o.min_p = -0.1; }, [](auto& o) { o.repeat_penalty = 0; }, [](auto& o) { o.repeat_last_n = -2; },
           [](auto& o) { o.presence_penalty = std::nan(""); }, [](auto& o) { o.frequency_penalty = INFINITY; },
           [](auto& o) { o.logit_bias = {{1, INFINITY}}; }}) {
    SamplingOptions o;
    set(o);
    EXPECT_FALSE(validate(o).ok());
  }
  EXPECT_TRUE(validate(SamplingOptions{}).ok());
}

}  // namespace
}  // namespace retort
