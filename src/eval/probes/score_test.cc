#include "eval/probes/score.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "eval/position_perplexity.h"
#include "tiny_model.h"

namespace retort::probes {
namespace {

using testing_support::tiny_config;
using testing_support::tiny_files;

class ProbeScore : public testing::Test {
 protected:
  // What the model would write, and the same with its last id changed.
  Continuation answer(const std::vector<int>& context, bool right) {
    Continuation out{context, {}};
    Sequence sequence = engine_.model().new_sequence();
    for (std::vector<int> next = context; out.ids.size() < 4; next = {out.ids.back()}) {
      const BatchItem item{&sequence, next};
      EXPECT_TRUE(engine_.forward({&item, 1}, [&](const LogitsRows& rows) {
        out.ids.push_back(int(std::max_element(rows.data, rows.data + 96) - rows.data));
      }).ok());
    }
    if (!right) out.ids.back() = (out.ids.back() + 1) % 96;
    return out;
  }
  ThreadPool pool_{1};
  Engine engine_{*Model::load(tiny_files(tiny_config().plan), WeightFormat::kF32, pool_), pool_};
};

TEST_F(ProbeScore, ErrorsAreThoseOfContexts) {
  const std::vector<Example> examples = {{{answer({1, 2, 3}, true), answer({1, 2, 3, 4}, false)}, 1},
                                         {{answer({5, 6}, true), answer({5, 6, 9}, true)}, 1}};
  const auto scored = score(engine_, examples, {});
  ASSERT_TRUE(scored.ok());
  EXPECT_EQ(scored->questions, 4);
  EXPECT_EQ(scored->answer_tokens, 16);
  EXPECT_DOUBLE_EQ(scored->accuracy.value, 0.75);        // 1/2 and 1
  EXPECT_DOUBLE_EQ(*scored->accuracy.error, 0.25);       // sqrt(2 * (1/4)^2 / 1 / 2)
  EXPECT_DOUBLE_EQ(scored->token_accuracy.value, 0.9375);  // 7/8 and 1
  EXPECT_LT(scored->log_likelihood.value, 0);
}

TEST_F(ProbeScore, BinsOfPositionsAddUpToThePerplexity) {
  Random random(3);
  std::vector<int> tokens(3 * 40 + 11);
  for (int& token : tokens) token = int(random.next() % 96);
  const auto bins = position_perplexity(engine_, tokens, 40, 16);
  ASSERT_TRUE(bins.ok());
  const auto whole = perplexity(engine_, std::span(tokens).first(120), {40, 16, 0});
  double sum = 0;
  int64_t scored = 0, next = 1;
  for (const PositionBin& bin : *bins) {
    EXPECT_EQ(bin.first, next);
    next = bin.end;
    sum += bin.nll * double(bin.scored);
    scored += bin.scored;
  }
  EXPECT_EQ(next, 40);
  EXPECT_EQ(scored, whole->scored);
  EXPECT_NEAR(sum, whole->nll, 1e-9 * sum);
  EXPECT_FALSE(position_perplexity(engine_, tokens, 200, 16).ok());
}

TEST(PositionBins, Double) {
  EXPECT_EQ(position_bins(2).size(), 1u);
  EXPECT_EQ(position_bins(16).back().end, 16);
  EXPECT_EQ(position_bins(17).back().end, 17) << "one position more is no bin of its own";
}

}  // namespace
}  // namespace retort::probes
