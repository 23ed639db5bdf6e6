#include "eval/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>

#include "eval/copy_recall.h"
#include "tiny_model.h"

namespace retort {
namespace {

struct Fixture : testing::Test {
  ThreadPool pool{2};
  std::shared_ptr<const Model> model = *Model::load(testing_support::tiny_files(testing_support::tiny_config().plan), WeightFormat::kF32, pool);
  Engine engine{model, pool};
  std::vector<int> tokens;
  Fixture() {
    Random random(5);
    for (int i = 0; i < 101; ++i) tokens.push_back(int(random.next() % 96));
  }
  // By the definition, one token at a time.
  PerplexityResult plain(int64_t context, int64_t score_from) {
    PerplexityResult result;
    for (int64_t first = 0; first + 1 < int64_t(tokens.size()); first += context) {
      Sequence sequence = model->new_sequence();
      const int64_t count = std::min<int64_t>(context, int64_t(tokens.size()) - first);
      for (int64_t t = 0; t + 1 < count; ++t) {
        const BatchItem item{&sequence, std::span(tokens).subspan(size_t(first + t), 1)};
        EXPECT_TRUE(engine.forward({&item, 1}, [&](const LogitsRows& rows) {
          if (t + 1 < score_from) return;
          double sum = 0;
          for (int v = 0; v < 96; ++v) sum += std::exp(double(rows.data[v]));
          result.nll += std::log(sum) - rows.data[tokens[size_t(first + t + 1)]];
          ++result.scored;
        }).ok());
      }
    }
    return result;
  }
};

TEST_F(Fixture, IsWhatTheDefinitionSaysHoweverItIsBatched) {
  for (const int64_t context : {2, 7, 25, 50, 101, 1000}) {
    for (const int64_t score_from : {0, 5}) {
      const PerplexityResult expected = plain(context, score_from);
      for (const int64_t rows : {1, 3, 50, 512}) {
        const auto result = perplexity(engine, tokens, {context, rows, score_from});
        ASSERT_TRUE(result.ok());
        EXPECT_EQ(result->scored, expected.scored) << context << " " << rows;
        EXPECT_NEAR(result->nll, expected.nll, 1e-4 * std::max(1.0, expected.nll));  // fp32 sums in other orders
      }
    }
  }
}

TEST_F(Fixture, ATailOfOneTokenIsDropped) {
  tokens.resize(51);
  const auto result = perplexity(engine, tokens, {25});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->windows, 2);
  EXPECT_EQ(result->tokens, 50);
  EXPECT_EQ(result->scored, 48);
}

TEST_F(Fixture, TooLittleTextIsAnError) {
  EXPECT_FALSE(perplexity(engine, std::vector<int>{1}, {}).ok());
  EXPECT_FALSE(perplexity(engine, tokens, {1}).ok());
  EXPECT_FALSE(copy_recall(engine, tokens, {8, 192}).ok());
}

TEST_F(Fixture, CopyRecallScoresTheSecondCopies) {
  const CopyRecallOptions options{3, 10};
  const auto repeated = repeated_passages(tokens, options);
  ASSERT_EQ(repeated.size(), 60u);
  for (size_t i = 0; i < 10; ++i) {
    EXPECT_EQ(repeated[i], repeated[i + 10]);
    EXPECT_EQ(repeated[20 + i], tokens[33 + i]);
  }
  const auto result = copy_recall(engine, tokens, options);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->scored, 30);
}

}  // namespace
}  // namespace retort
