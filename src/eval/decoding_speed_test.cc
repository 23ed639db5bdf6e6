#include "eval/decoding_speed.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/session.h"
#include "tiny_model.h"

namespace retort {
namespace {

struct DecodingSpeed : testing::Test {
  ThreadPool pool{2};
  std::shared_ptr<const Model> model = *Model::load(testing_support::tiny_files(testing_support::tiny_config().plan), WeightFormat::kF32, pool);
  Engine engine{model, pool};
  const std::vector<int> tokens{3, 1, 4, 1, 5};
  const std::vector<int64_t> contexts{7, 12};
};

TEST_F(DecodingSpeed, EveryContextHasReadItsTokensAndDecodesFromThere) {
  std::vector<int64_t> positions;
  const auto filled = fill_contexts(engine, tokens, contexts, [&](int64_t position) {
    positions.push_back(position);
    return true;
  });
  ASSERT_TRUE(filled.ok());
  ASSERT_EQ(filled->size(), 2u);
  EXPECT_EQ(positions, contexts);
  const auto rates = decode_in_turn(*filled, std::vector{1, 3}, 2, 3);
  ASSERT_TRUE(rates.ok());
  ASSERT_EQ(rates->size(), 2u);
  for (size_t c = 0; c < 2; ++c) {
    const FilledContext& at = (*filled)[c];
    EXPECT_EQ(at.sequence.position(), contexts[c]) << "a turn moved it";
    EXPECT_GT(at.prefill, 0);
    ASSERT_EQ((*rates)[c].size(), 2u) << "alone, and three together";
    for (const DecodingRate& rate : (*rates)[c]) {
      EXPECT_LE(rate.slowest, rate.median);
      EXPECT_LE(rate.median, rate.fastest);
      EXPECT_GT(rate.slowest, 0);
    }
  }
}

TEST_F(DecodingSpeed, ContextsAreWhatASessionReads) {
  const auto filled = fill_contexts(engine, tokens, contexts, [](int64_t) { return true; });
  ASSERT_TRUE(filled.ok());
  Session session(engine);
  for (int64_t i = 0; i < contexts[0]; ++i) session.commit(tokens[size_t(i) % tokens.size()]);
  ASSERT_TRUE(session.consume().ok());
  const auto logits = session.logits();
  EXPECT_EQ(filled->front().next, std::max_element(logits.begin(), logits.end()) - logits.begin());
}

TEST_F(DecodingSpeed, StopsWhenToldAndNeedsTokens) {
  EXPECT_FALSE(fill_contexts(engine, {}, contexts, [](int64_t) { return true; }).ok());
  const auto stopped = fill_contexts(engine, tokens, contexts, [](int64_t) { return false; });
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, ErrorCode::kInterrupted);
}

}  // namespace
}  // namespace retort
