#include "eval/divergence.h"

#include <cmath>

#include <gtest/gtest.h>

#include "eval/perplexity.h"
#include "support/tiny_model.h"
#include "test_files.h"

namespace retort {
namespace {

class DivergenceTest : public ::testing::Test {
 protected:
  std::shared_ptr<const Model> model(uint64_t seed) {
    const std::string name = folder_ / std::to_string(seed);
    EXPECT_TRUE(test::write_random_model(name, test::tiny_config(), seed).ok());
    const auto files = open_model(name);
    EXPECT_TRUE(files.ok());
    return *Model::load(*files, WeightFormat::kF32, pool_);
  }
  test::TempFolder folder_;
  ThreadPool pool_{2};
  std::vector<int> tokens_ = [] {
    std::vector<int> t;
    for (int i = 0; i < 333; ++i) t.push_back((i * 53 + i / 3) % 256);
    return t;
  }();
};

TEST_F(DivergenceTest, OfAModelFromItselfIsNothing) {
  const auto same = model(1);
  Engine a(same, pool_), b(same, pool_);
  const auto d = divergence(a, b, tokens_, 100);
  ASSERT_TRUE(d.ok());
  EXPECT_EQ(d->kl_mean, 0);
  EXPECT_EQ(d->same_top, d->tokens);
  EXPECT_EQ(d->tokens, 3 * 99 + 32);
}

TEST_F(DivergenceTest, PerplexitiesAreThoseOfPerplexity) {
  Engine a(model(1), pool_), b(model(2), pool_);
  const auto d = divergence(a, b, tokens_, 100);
  ASSERT_TRUE(d.ok());
  const auto of_a = perplexity(a, tokens_, {.context = 100}), of_b = perplexity(b, tokens_, {.context = 100});
  EXPECT_NEAR(d->perplexity_base(), of_a->perplexity(), 1e-4 * of_a->perplexity());
  EXPECT_NEAR(d->perplexity(), of_b->perplexity(), 1e-4 * of_b->perplexity());
  EXPECT_EQ(d->tokens, of_a->scored);
  EXPECT_GT(d->kl_mean, 0.01);
  EXPECT_GE(d->kl_largest, d->kl_999);
  EXPECT_GT(d->kl_999, d->kl_mean);
}

// What is remembered of the base is what it would say again, also after a comparison that was broken off.
TEST_F(DivergenceTest, ABaseThatIsReadOnceSaysTheSame) {
  Engine a(model(1), pool_), b(model(2), pool_), c(model(3), pool_);
  DivergenceBase kept(a, tokens_, 200);
  const auto broken = kept.compare(b, [](int64_t done) { return done < 200; });
  ASSERT_FALSE(broken.ok());
  EXPECT_EQ(broken.error().code, ErrorCode::kInterrupted);
  for (Engine* model : {&b, &c, &b}) {
    const auto once = kept.compare(*model), again = divergence(a, *model, tokens_, 200);
    ASSERT_TRUE(once.ok() && again.ok());
    EXPECT_EQ(once->kl_mean, again->kl_mean);
    EXPECT_EQ(once->nll_base, again->nll_base);
    EXPECT_EQ(once->kl_largest, again->kl_largest);
  }
}

// One row by hand.
TEST_F(DivergenceTest, IsTheSumOverTheVocabulary) {
  Engine a(model(1), pool_), b(model(2), pool_);
  const std::vector<int> two = {5, 9};
  const auto d = divergence(a, b, two, 10);
  ASSERT_TRUE(d.ok());
  std::vector<float> rows[2];
  Engine* engines[2] = {&a, &b};
  for (int m : {0, 1}) {
    Sequence s = engines[m]->model().new_sequence();
    const BatchItem item{&s, std::span(two).first(1)};
    ASSERT_TRUE(engines[m]->forward({&item, 1}, [&](const LogitsRows& r) { rows[m].assign(r.data, r.data + 260); }).ok());
  }
  double za = 0, zb = 0, kl = 0;
  for (int i = 0; i < 260; ++i) za += std::exp(double(rows[0][i])), zb += std::exp(double(rows[1][i]));
  for (int i = 0; i < 260; ++i) kl += std::exp(double(rows[0][i])) / za * (double(rows[0][i]) - std::log(za) - double(rows[1][i]) + std::log(zb));
  EXPECT_NEAR(d->kl_mean, kl, 1e-6);
}

}  // namespace
}  // namespace retort
