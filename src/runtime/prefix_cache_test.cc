// The prefix cache: what it finds, what it costs, and that a state found is the state that was put.
#include "runtime/prefix_cache.h"

#include <gtest/gtest.h>

#include <limits>

#include "tiny_model.h"

namespace retort {
namespace {

using testing_support::NamedPlan;
using testing_support::plans_of_every_mixer;
using testing_support::some_tokens;
using testing_support::tiny_files;

constexpr int64_t kPlenty = 64 << 20;

ThreadPool& pool() {
  static ThreadPool pool(2);
  return pool;
}

std::shared_ptr<const Model> load(const std::vector<LayerPlan>& plan) {
  auto model = Model::load(tiny_files(plan), WeightFormat::kF32, pool());
  EXPECT_TRUE(model.ok()) << (model.ok() ? "" : model.error().message);
  return *model;
}
std::shared_ptr<const Model> load(const std::string& name) {
  for (const NamedPlan& plan : plans_of_every_mixer()) {
    if (plan.name == name) return load(plan.plan);
  }
  ADD_FAILURE() << "no plan " << name;
  return nullptr;
}

std::vector<int> joined(std::vector<int> a, const std::vector<int>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Sequence state_of(Engine& engine, const std::vector<int>& tokens) {
  Session session(engine);
  session.commit(tokens);
  EXPECT_TRUE(session.consume().ok());
  return session.sequence();
}
int64_t length(const std::optional<Sequence>& state) { return state ? state->position() : 0; }

TEST(PrefixCache, FindsTheLongestStoredBeginning) {
  const auto model = load("gla");
  Engine engine(model, pool());
  PrefixCache cache(kPlenty);
  const auto a = some_tokens(10, 1), b = some_tokens(7, 2), c = some_tokens(5, 3);
  const auto ab = joined(a, b), ac = joined(a, c), abc = joined(ab, c);
  EXPECT_EQ(length(cache.find(abc)), 0);
  ASSERT_TRUE(cache.put(ab, state_of(engine, ab)));
  EXPECT_EQ(length(cache.find(abc)), 17);
  EXPECT_EQ(length(cache.find(ac)), 0);   // a recurrent state cannot be cut
  EXPECT_EQ(length(cache.find(ab)), 0);   // nothing would be left to feed
  ASSERT_TRUE(cache.put(ac, state_of(engine, ac)));  // splits the edge
  ASSERT_TRUE(cache.put(a, state_of(engine, a)));    // a state for the split
  ASSERT_TRUE(cache.put(a, state_of(engine, a)));    // known already
  EXPECT_EQ(length(cache.find(ab)), 10);
  EXPECT_EQ(length(cache.find(joined(ac, b))), 15);
  EXPECT_EQ(length(cache.find(joined(a, a))), 10);
  EXPECT_EQ(length(cache.find({})), 0);
  EXPECT_EQ(cache.stats().states, 3);
  EXPECT_EQ(cache.stats().lookups, 8);
  EXPECT_EQ(cache.stats().hits, 4);
  const auto found = cache.find(abc);
  EXPECT_EQ(found->fixed_numbers(), state_of(engine, ab).fixed_numbers());
}

TEST(PrefixCache, FullAttentionIsCutWhereTextsPart) {
  const auto model = load(testing_support::tiny_config().plan);
  Engine engine(model, pool());
  PrefixCache cache(kPlenty);
  const auto a = some_tokens(300, 1);
  ASSERT_TRUE(cache.put(a, state_of(engine, a)));
  EXPECT_EQ(length(cache.find(a)), 299);
  auto edited = a;
  edited[280] = (edited[280] + 1) % 96;
  const auto found = cache.find(edited);
  ASSERT_EQ(length(found), 280);
  Session fresh(engine), resumed(engine);
  resumed.assume(std::span(edited).first(280), *found);
  resumed.commit(std::span(edited).subspan(280));
  fresh.commit(std::span(edited).first(280));
  ASSERT_TRUE(fresh.consume().ok());
  fresh.commit(std::span(edited).subspan(280));
  ASSERT_TRUE(fresh.consume().ok());
  ASSERT_TRUE(resumed.consume().ok());
  for (size_t i = 0; i < 96; ++i) EXPECT_NEAR(fresh.logits()[i], resumed.logits()[i], 1e-4);  // chunks begin elsewhere
}

TEST(PrefixCache, TheLeastRecentlyUsedGoesAndSharedChunksCountOnce) {
  const auto model = load(testing_support::tiny_config().plan);
  Engine engine(model, pool());
  const auto text = some_tokens(3 * KvCache::kChunk + 1, 1);
  Session session(engine);
  PrefixCache plenty(kPlenty);
  std::vector<int64_t> bytes;
  for (int i = 1; i <= 3; ++i) {
    session.commit(std::span(text).subspan(session.tokens().size(), size_t(KvCache::kChunk)));
    ASSERT_TRUE(session.consume().ok());
    ASSERT_TRUE(plenty.put(session.tokens(), session.sequence()));
    bytes.push_back(plenty.stats().bytes);
  }
  EXPECT_EQ(bytes[1], 2 * bytes[0]);
  EXPECT_EQ(bytes[2], 3 * bytes[0]);

  PrefixCache two(2 * bytes[0] + 100);
  const auto other = [&](uint64_t seed) { return some_tokens(KvCache::kChunk, seed); };
  for (const uint64_t seed : {11, 12}) ASSERT_TRUE(two.put(other(seed), state_of(engine, other(seed))));
  EXPECT_EQ(length(two.find(joined(other(11), {1}))), KvCache::kChunk);  // used: the other one goes first
  ASSERT_TRUE(two.put(other(13), state_of(engine, other(13))));
  EXPECT_EQ(two.stats().states, 2);
  EXPECT_EQ(two.stats().evicted, 1);
  EXPECT_EQ(two.stats().bytes, 2 * bytes[0]);
  EXPECT_EQ(length(two.find(joined(other(12), {1}))), 0);
  EXPECT_EQ(length(two.find(joined(other(11), {1}))), KvCache::kChunk);
  EXPECT_EQ(length(two.find(joined(other(13), {1}))), KvCache::kChunk);
}

TEST(PrefixCache, AnyBudgetIsHeld) {
  const auto model = load("gla_beside_attention");
  Engine engine(model, pool());
  for (const int64_t budget : {std::numeric_limits<int64_t>::min(), int64_t(-1), int64_t(0), int64_t(1), int64_t(30000), int64_t(200000),
                               std::numeric_limits<int64_t>::max()}) {
    PrefixCache cache(budget);
    Random random(4);
    for (int i = 0; i < 60; ++i) {
      const auto text = some_tokens(1 + int64_t(random.next() % 40), 1 + random.next() % 3);  // beginnings of three texts
      const bool kept = cache.put(text, state_of(engine, text));
      EXPECT_LE(cache.stats().bytes, std::max<int64_t>(budget, 0));
      EXPECT_EQ(kept, length(cache.find(joined(text, {1}))) == int64_t(text.size()));
    }
    EXPECT_EQ(cache.stats().refused, budget < 30000 ? 60 : 0);
    EXPECT_EQ(cache.stats().states > 0, budget >= 30000);
  }
}

class EveryMixerCached : public testing::TestWithParam<NamedPlan> {};

TEST_P(EveryMixerCached, APromptIsFedFromWhereItIsNew) {
  const auto model = load(GetParam().plan);
  Engine engine(model, pool());
  PrefixCache cache(kPlenty);
  Session session(engine);
  const auto system = some_tokens(90, 1), question = some_tokens(20, 2), edited = some_tokens(25, 3);
  const auto check = [&](const std::vector<int>& text, int64_t least_cached, int64_t most_cached) {
    const auto fed = feed_with_cache(session, cache, text, 32);
    ASSERT_TRUE(fed.ok());
    EXPECT_GE(fed->cached, least_cached);
    EXPECT_LE(fed->cached, most_cached);
    EXPECT_EQ(fed->cached + fed->fed, int64_t(text.size()));
    EXPECT_EQ(session.tokens(), text);
    EXPECT_EQ(session.pending(), 0);
    PrefixCache none(0);
    Session fresh(engine);
    const auto everything = feed_with_cache(fresh, none, text, 32);
    ASSERT_TRUE(everything.ok());
    EXPECT_EQ(everything->cached, 0);
    // Full attention is cut anywhere, so its chunks begin elsewhere.
    for (size_t i = 0; i < 96; ++i) EXPECT_NEAR(session.logits()[i], fresh.logits()[i], 2e-4) << i;
  };
  const bool cuts = model->layout()->fixed_numbers() == 0;
  check(system, 0, 0);
  check(joined(system, question), 90, 90);                              // goes on from where it stands
  check(joined(system, edited), 90, cuts ? 91 : 90);                    // another message after the same one
  check(joined(system, question), cuts ? 109 : 96, cuts ? 109 : 96);    // again: the last token must be fed
  check(joined(joined(system, question), edited), 110, 110);
  session.reset();
  check(joined(std::vector<int>(system.begin(), system.begin() + 70), edited), cuts ? 70 : 64, cuts ? 71 : 64);
}

INSTANTIATE_TEST_SUITE_P(Registry, EveryMixerCached, testing::ValuesIn(plans_of_every_mixer()),
                         [](const auto& info) { return info.param.name; });

TEST(FeedWithCache, NothingToFeedIsAnError) {
  const auto model = load("gla");
  Engine engine(model, pool());
  PrefixCache cache(kPlenty);
  Session session(engine);
  EXPECT_EQ(feed_with_cache(session, cache, {}).error().message, "the prompt has no tokens");
}

TEST(FeedWithCache, StoppingKeepsWhatWasFed) {
  const auto model = load("gla");
  Engine engine(model, pool());
  PrefixCache cache(kPlenty);
  Session session(engine);
  const auto text = some_tokens(100, 1);
  const auto stopped = feed_with_cache(session, cache, text, 32, [](int64_t fed) { return fed < 64; });
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, ErrorCode::kInterrupted);
  session.reset();
  const auto again = feed_with_cache(session, cache, text, 32);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->cached, 64);
}

}  // namespace
}  // namespace retort
