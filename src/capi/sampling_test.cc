// Samplers of the C interface.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "runtime/sampling.h"
#include "support/c_models.h"

namespace retort {
namespace {

class CSampling : public test::CModels {
 protected:
  static SamplerHandle sampler(const retort_sampling_options* options) {
    retort_sampler* out = nullptr;
    EXPECT_EQ(retort_sampler_new(options, &out), RETORT_OK) << retort_error();
    return SamplerHandle(out);
  }
};

TEST_F(CSampling, DefaultsAreTheRuntimes) {
  const retort_sampling_options c = RETORT_SAMPLING_DEFAULTS;
  const SamplingOptions o;
  EXPECT_EQ(c.temperature, o.temperature);
  EXPECT_EQ(c.top_k, o.top_k);
  EXPECT_EQ(c.top_p, o.top_p);
  EXPECT_EQ(c.min_p, o.min_p);
  EXPECT_EQ(c.repeat_penalty, o.repeat_penalty);
  EXPECT_EQ(c.repeat_last_n, o.repeat_last_n);
  EXPECT_EQ(c.presence_penalty, o.presence_penalty);
  EXPECT_EQ(c.frequency_penalty, o.frequency_penalty);
  EXPECT_EQ(c.logit_bias, nullptr);
  EXPECT_EQ(c.logit_bias_count, 0);
}

TEST_F(CSampling, EveryOptionArrives) {
  const std::vector<float> logits{1, 5, 4, 4.5f, -2};
  const std::vector<int32_t> text{1, 1, 3};
  const auto first = [&](auto change) {
    retort_sampling_options options = RETORT_SAMPLING_DEFAULTS;
    options.temperature = 0;
    change(options);
    const SamplerHandle s = sampler(&options);
    int32_t token = -1;
    EXPECT_EQ(retort_sampler_draw_from(s.get(), logits.data(), 5, text.data(), 3, &token), RETORT_OK) << retort_error();
    return token;
  };
  EXPECT_EQ(first([](auto&) {}), 1);
  EXPECT_EQ(first([](auto& o) { o.repeat_penalty = 2; }), 2);
  EXPECT_EQ(first([](auto& o) { o.repeat_penalty = 2, o.repeat_last_n = 1; }), 1);
  const retort_logit_bias biases[] = {{4, 10}, {1000000, 50}};
  EXPECT_EQ(first([&](auto& o) { o.logit_bias = biases, o.logit_bias_count = 2; }), 4);
  // Drawn often: the narrow settings leave the likeliest only.
  for (int which = 0; which < 3; ++which) {
    for (uint64_t seed = 0; seed < 20; ++seed) {
      EXPECT_EQ(first([&](auto& o) {
                  o.temperature = 100, o.seed = seed, o.top_k = which == 0, o.top_p = which == 1 ? 0 : 1,
                  o.min_p = which == 2;
                }),
                1);
    }
  }
  // The penalties for what was drawn: 1, then the next likeliest.
  retort_sampling_options options = RETORT_SAMPLING_DEFAULTS;
  options.temperature = 0, options.presence_penalty = 0.3, options.frequency_penalty = 0.3;
  const SamplerHandle s = sampler(&options);
  std::vector<int32_t> drawn(3);
  for (int32_t& token : drawn)
    ASSERT_EQ(retort_sampler_draw_from(s.get(), logits.data(), 5, nullptr, 0, &token), RETORT_OK);
  EXPECT_EQ(drawn, (std::vector<int32_t>{1, 3, 1}));
  int32_t token = 0;
  EXPECT_EQ(retort_sampler_draw_from(s.get(), logits.data(), 3, nullptr, 0, &token), RETORT_INVALID);
  EXPECT_STREQ(retort_error(), "the sampler has drawn from a vocabulary of 5, this one has 3");
}

TEST_F(CSampling, WhatIsNoNumberIsNotDrawn) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> some{nan, 1, nan, 2}, none{nan, nan, nan, nan};
  const SamplerHandle s = sampler(nullptr), untouched = sampler(nullptr);
  int32_t token = 77;
  EXPECT_EQ(retort_sampler_draw_from(s.get(), none.data(), 3, nullptr, 0, &token), RETORT_INVALID);
  EXPECT_STREQ(retort_error(), "every logit is NaN: there is nothing to draw");
  EXPECT_EQ(token, 77);
  for (int i = 0; i < 20; ++i) {
    int32_t expected = -1;
    ASSERT_EQ(retort_sampler_draw_from(untouched.get(), some.data(), 4, nullptr, 0, &expected), RETORT_OK);
    EXPECT_EQ(retort_sampler_draw_from(s.get(), none.data(), 4, nullptr, 0, &token), RETORT_INVALID);
    ASSERT_EQ(retort_sampler_draw_from(s.get(), some.data(), 4, nullptr, 0, &token), RETORT_OK) << retort_error();
    EXPECT_TRUE(token == 1 || token == 3) << token;
    EXPECT_EQ(token, expected) << "what was refused has drawn nothing";
  }
}

// Rows of the head that no token has are the likeliest by far.
TEST_F(CSampling, NothingButTokensIsDrawnFromASession) {
  ASSERT_TRUE(test::write_padded_model(folder_ / "padded").ok());
  const ModelHandle model = load(folder_ / "padded");
  const SessionHandle text = session(model);
  feed(text, {1, 2, 3});
  for (const double temperature : {0.0, 1.0, 5.0}) {
    retort_sampling_options options = RETORT_SAMPLING_DEFAULTS;
    options.temperature = temperature;
    const SamplerHandle s = sampler(&options);
    for (int i = 0; i < 20; ++i) {
      int32_t token = -1;
      ASSERT_EQ(retort_sampler_draw(s.get(), text.get(), &token), RETORT_OK) << retort_error();
      EXPECT_LT(token, 256);
    }
  }
}

TEST_F(CSampling, TheSeedDecides) {
  std::vector<float> logits(1000, 0.0f);
  const auto draws = [&](uint64_t seed) {
    retort_sampling_options options = RETORT_SAMPLING_DEFAULTS;
    options.seed = seed, options.top_k = 0, options.top_p = 1, options.min_p = 0;
    const SamplerHandle s = sampler(&options);
    std::vector<int32_t> out(8);
    for (int32_t& token : out)
      EXPECT_EQ(retort_sampler_draw_from(s.get(), logits.data(), 1000, nullptr, 0, &token), RETORT_OK);
    return out;
  };
  EXPECT_EQ(draws(3), draws(3));
  EXPECT_NE(draws(3), draws(4));
}

TEST_F(CSampling, WrongOptionsAreRefused) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto refused = [](auto change) {
    retort_sampling_options options = RETORT_SAMPLING_DEFAULTS;
    change(options);
    retort_sampler* out = reinterpret_cast<retort_sampler*>(1);
    EXPECT_EQ(retort_sampler_new(&options, &out), RETORT_INVALID);
    EXPECT_EQ(out, nullptr);
    return std::string(retort_error());
  };
  EXPECT_EQ(refused([](auto& o) { o.temperature = -1; }), "temperature is -1; expected 0 or more");
  refused([&](auto& o) { o.temperature = nan; });
  refused([](auto& o) { o.top_k = -1; });
  refused([](auto& o) { o.top_p = 1.5; });
  refused([&](auto& o) { o.min_p = nan; });
  refused([](auto& o) { o.repeat_penalty = 0; });
  refused([](auto& o) { o.repeat_last_n = -3; });
  refused([](auto& o) { o.frequency_penalty = INFINITY; });
  EXPECT_EQ(refused([](auto& o) { o.logit_bias_count = 2; }), "logit_bias is NULL");
  refused([](auto& o) { o.logit_bias_count = -2; });
  refused([](auto& o) { o.logit_bias_count = INT64_MAX; });
  EXPECT_NE(refused([](auto& o) { o.size = 0; }).find("RETORT_SAMPLING_DEFAULTS"), std::string::npos);
  refused([](auto& o) { o.size = 16; });
  refused([](auto& o) { o.size = SIZE_MAX; });
}

// A program built against a later header: what it does not set is no trouble, what it sets is refused rather than
// passed over.
TEST_F(CSampling, LaterFieldsMustBeUnset) {
  struct Later {
    retort_sampling_options known = RETORT_SAMPLING_DEFAULTS;
    double more = 0;
  } later;
  later.known.size = sizeof later;
  EXPECT_TRUE(sampler(&later.known));
  later.more = 1;
  retort_sampler* out = nullptr;
  EXPECT_EQ(retort_sampler_new(&later.known, &out), RETORT_INVALID);
}

}  // namespace
}  // namespace retort
