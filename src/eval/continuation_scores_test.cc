#include "eval/continuation_scores.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tiny_model.h"

namespace retort {
namespace {

using testing_support::tiny_config;
using testing_support::tiny_files;

// By the definition: every continuation from an empty state, one token at a time.
ContinuationScore plain(Engine& engine, const Continuation& c) {
  std::vector<int> all = c.context;
  all.insert(all.end(), c.ids.begin(), c.ids.end());
  ContinuationScore out;
  Sequence sequence = engine.model().new_sequence();
  for (size_t t = 0; t + 1 < all.size(); ++t) {
    const BatchItem item{&sequence, std::span(all).subspan(t, 1)};
    EXPECT_TRUE(engine.forward({&item, 1}, [&](const LogitsRows& rows) {
      if (t + 1 < c.context.size()) return;
      double sum = 0;
      int best = 0;
      for (int v = 0; v < 96; ++v) {
        sum += std::exp(double(rows.data[v]));
        if (rows.data[v] > rows.data[best]) best = v;
      }
      out.log_likelihood += rows.data[all[t + 1]] - std::log(sum);
      out.greedy = out.greedy && best == all[t + 1];
      out.greedy_ids += best == all[t + 1];
    }).ok());
  }
  return out;
}

// Documents with a common beginning, choices with common beginnings, equal ones, and some whose text is a beginning of another's.
std::vector<Continuation> documents(Engine& engine) {
  Random random(11);
  const auto draw = [&](size_t count) {
    std::vector<int> out(count);
    for (int& token : out) token = int(random.next() % 96);
    return out;
  };
  const std::vector<int> preamble = draw(20);
  std::vector<Continuation> out;
  for (int d = 0; d < 7; ++d) {
    std::vector<int> context = preamble;
    if (d > 0) context.insert(context.end(), out.front().context.begin() + 20, out.front().context.begin() + 20 + d % 5);
    const auto own = draw(size_t(5 + d));
    context.insert(context.end(), own.begin(), own.end());
    auto first = draw(6);
    for (size_t n : {6, 3, 1, 1}) out.push_back({context, {first.begin(), first.begin() + ptrdiff_t(n)}});
    out.push_back({context, draw(9)});
    out.push_back({{context.begin(), context.begin() + 4}, {context.begin() + 4, context.end()}});
  }
  // One that the model would itself have written.
  Continuation greedy{preamble, {}};
  Sequence sequence = engine.model().new_sequence();
  for (std::vector<int> next = preamble; greedy.ids.size() < 5; next = {greedy.ids.back()}) {
    const BatchItem item{&sequence, next};
    EXPECT_TRUE(engine.forward({&item, 1}, [&](const LogitsRows& rows) {
      greedy.ids.push_back(int(std::max_element(rows.data, rows.data + 96) - rows.data));
    }).ok());
  }
  out.push_back(greedy);
  return out;
}

TEST(ContinuationScores, AreThoseOfEveryContinuationAlone) {
  for (const auto& named : testing_support::plans_of_every_mixer()) {
    ThreadPool pool{1};
    const auto model = *Model::load(tiny_files(named.plan), WeightFormat::kF32, pool);
    Engine engine{model, pool};
    const auto continuations = documents(engine);
    std::vector<ContinuationScore> expected;
    for (const auto& c : continuations) expected.push_back(plain(engine, c));
    EXPECT_TRUE(expected.back().greedy);
    for (const int64_t rows : {1, 7, 64, 512}) {
      for (const int64_t state_bytes : {int64_t{0}, int64_t{1} << 30}) {
        ContinuationWork work;
        int64_t done = 0;
        const auto scores = score_continuations(engine, continuations, {rows, state_bytes}, work, [&](int64_t n) { done = n; });
        ASSERT_TRUE(scores.ok()) << named.name;
        EXPECT_EQ(done, int64_t(continuations.size()));
        for (size_t i = 0; i < expected.size(); ++i) {
          // fp32 sums in other orders, over up to 40 ids.
          EXPECT_NEAR((*scores)[i].log_likelihood, expected[i].log_likelihood, 1e-2) << named.name << " " << i << ", rows " << rows;
          EXPECT_EQ((*scores)[i].greedy, expected[i].greedy) << named.name << " " << i;
          EXPECT_EQ((*scores)[i].greedy_ids, expected[i].greedy_ids) << named.name << " " << i;
        }
        EXPECT_LT(work.rows_read, work.rows_asked / 3) << "shared beginnings are read once";
      }
    }
  }
}

TEST(ContinuationScores, WhatCannotBeScoredIsAnError) {
  ThreadPool pool{1};
  const auto model = *Model::load(tiny_files(tiny_config().plan), WeightFormat::kF32, pool);
  Engine engine{model, pool};
  ContinuationWork work;
  for (const Continuation& c : {Continuation{{}, {1}}, Continuation{{1}, {}}, Continuation{{1}, {96}}, Continuation{{-1}, {1}}}) {
    EXPECT_FALSE(score_continuations(engine, std::vector{c}, {}, work).ok());
  }
  const auto none = score_continuations(engine, {}, {}, work);
  ASSERT_TRUE(none.ok());
  EXPECT_TRUE(none->empty());
}

}  // namespace
}  // namespace retort
