// Speculation against plain decoding: the same tokens when greedy, the same distribution when not, at every edge.
#include "runtime/speculation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "tiny_model.h"

namespace retort {
namespace {

using testing_support::NamedPlan;
using testing_support::plans_of_every_mixer;
using testing_support::some_tokens;
using testing_support::tiny_files;

ThreadPool& pool() {
  static ThreadPool pool(2);
  return pool;
}

std::shared_ptr<const Model> load(const std::vector<LayerPlan>& plan, uint64_t seed = 1) {
  auto model = Model::load(tiny_files(plan, seed), WeightFormat::kF32, pool());
  EXPECT_TRUE(model.ok()) << (model.ok() ? "" : model.error().message);
  return *model;
}
std::vector<LayerPlan> teacher_plan() { return testing_support::tiny_config().plan; }

const SamplingOptions kGreedy{.temperature = 0, .top_k = 0, .top_p = 1, .min_p = 0};

Session plain_text(Engine& engine, const std::vector<int>& prompt, int count, const SamplingOptions& options = kGreedy) {
  Session session(engine);
  Sampler sampler(options, 1);
  session.commit(prompt);
  for (int i = 0; i < count; ++i) {
    EXPECT_TRUE(session.consume().ok());
    session.commit(sampler.sample(session.logits(), session.tokens()));
  }
  return session;
}

// Knows the text and is wrong now and then: `right` of 256 guesses are right.
class Oracle : public Draft {
 public:
  Oracle(std::vector<int> text, int right, uint64_t seed = 1) : text_(std::move(text)), right_(right), random_(seed) {}
  Status propose(std::span<const int> tokens, int64_t count, std::vector<Guess>& guesses) override {
    EXPECT_TRUE(std::equal(tokens.begin(), tokens.end(), text_.begin()));
    for (int64_t i = 0; i < count && tokens.size() + size_t(i) < text_.size(); ++i) {
      const int token = text_[tokens.size() + size_t(i)];
      guesses.push_back({int(random_.next() % 256) < right_ ? token : (token + 1) % 96, {}});
    }
    return {};
  }

 private:
  std::vector<int> text_;
  int right_;
  Random random_;
};

// Speculates until there are `count` tokens after the prompt, or `stop` was made.
void speculate(Session& session, Speculation& speculation, Sampler& sampler, int64_t count, int stop = -1) {
  bool stopped = false;
  for (int64_t made = 0; made < count && !stopped;) {
    const Status status = speculation.step(session, sampler, count - made, [&](int token) {
      ++made;
      return !(stopped = token == stop);
    });
    ASSERT_TRUE(status.ok()) << status.error().message;
  }
}

class EveryTarget : public testing::TestWithParam<NamedPlan> {};

TEST_P(EveryTarget, GreedyTextIsPlainDecodingsForAnyDraft) {
  const auto model = load(GetParam().plan), other = load(teacher_plan(), 7);
  Engine engine(model, pool());
  for (const int length : {1, 17}) {
    const auto prompt = some_tokens(length, 4);
    const Session plain = plain_text(engine, prompt, 40);
    for (const int most : {1, 3, 8}) {
      const auto check = [&](std::unique_ptr<Draft> draft) {
        Speculation speculation(std::move(draft), most);
        Sampler sampler(kGreedy, 2);
        Session session(engine);
        session.commit(prompt);
        speculate(session, speculation, sampler, 40);
        EXPECT_EQ(session.tokens(), plain.tokens());
        EXPECT_EQ(session.pending(), 1);
        EXPECT_EQ(speculation.stats().tokens, 40);
        return speculation.stats();
      };
      const auto never = check(std::make_unique<Oracle>(plain.tokens(), 0)), always = check(std::make_unique<Oracle>(plain.tokens(), 256));
      EXPECT_EQ(never.accepted, 0);
      EXPECT_EQ(never.steps, 40);
      EXPECT_EQ(always.accepted, always.guessed);
      EXPECT_LE(always.steps, 2 + 40 / (most + 1));
      check(std::make_unique<Oracle>(plain.tokens(), 180));
      check(std::make_unique<NgramDraft>());
      check(std::make_unique<ModelDraft>(other, pool(), EngineOptions{}, kGreedy, 3));
    }
  }
}

TEST_P(EveryTarget, AsItsOwnDraftEveryGuessIsRight) {
  const auto model = load(GetParam().plan);
  Engine engine(model, pool());
  const auto prompt = some_tokens(9, 5);
  const Session plain = plain_text(engine, prompt, 30);
  Speculation speculation(std::make_unique<ModelDraft>(model, pool(), EngineOptions{}, kGreedy, 3), 4);
  Sampler sampler(kGreedy, 2);
  Session session(engine);
  session.commit(prompt);
  speculate(session, speculation, sampler, 30);
  EXPECT_EQ(session.tokens(), plain.tokens());
  // The draft feeds what was accepted in one pass, in other sums: a near-tie may fall otherwise.
  EXPECT_GT(speculation.stats().alpha(), 0.8);
}

INSTANTIATE_TEST_SUITE_P(Registry, EveryTarget, testing::ValuesIn(plans_of_every_mixer()),
                         [](const auto& info) { return info.param.name; });

std::vector<LayerPlan> recurrent_plan() {
  for (const NamedPlan& plan : plans_of_every_mixer()) {
    if (plan.name == "gla_window_beside_attention") return plan.plan;
  }
  return {};
}

TEST(Speculation, AStopTokenDropsTheRestAndTheTextGoesOnFromThere) {
  const auto model = load(recurrent_plan());
  Engine engine(model, pool());
  const auto prompt = some_tokens(6, 8);
  const Session plain = plain_text(engine, prompt, 24);
  for (size_t at = prompt.size(); at + 4 < plain.tokens().size(); ++at) {
    const int stop = plain.tokens()[at];
    size_t first = prompt.size();
    while (plain.tokens()[first] != stop) ++first;
    Speculation speculation(std::make_unique<Oracle>(plain.tokens(), 256), 5);
    Sampler sampler(kGreedy, 2);
    Session session(engine);
    session.commit(prompt);
    speculate(session, speculation, sampler, 24, stop);
    ASSERT_EQ(session.tokens(), std::vector<int>(plain.tokens().begin(), plain.tokens().begin() + ptrdiff_t(first + 1)));
    ASSERT_EQ(session.pending(), 1);
    const int64_t left = int64_t(plain.tokens().size() - session.tokens().size());
    speculate(session, speculation, sampler, left);  // the stop token was text after all
    ASSERT_EQ(session.tokens(), plain.tokens()) << "stopped at " << first;
  }
}

TEST(Speculation, TheLastTokensNeedNoGuess) {
  const auto model = load(recurrent_plan());
  Engine engine(model, pool());
  const auto prompt = some_tokens(6, 8);
  for (const int count : {1, 2, 3, 7}) {
    const Session plain = plain_text(engine, prompt, count + 8);
    Speculation speculation(std::make_unique<Oracle>(plain.tokens(), 256), 8);
    Sampler sampler(kGreedy, 2);
    Session session(engine);
    session.commit(prompt);
    speculate(session, speculation, sampler, count);
    EXPECT_EQ(session.tokens().size(), prompt.size() + size_t(count));
    EXPECT_TRUE(std::equal(session.tokens().begin(), session.tokens().end(), plain.tokens().begin()));
    EXPECT_LE(speculation.stats().guessed, std::max(0, count - 2));
  }
}

TEST(Speculation, DraftLengthMayChangeAndTheStateIsAValueBetweenSteps) {
  const auto model = load(recurrent_plan());
  Engine engine(model, pool());
  const auto prompt = some_tokens(11, 9);
  const Session plain = plain_text(engine, prompt, 60);
  Session session(engine);
  session.commit(prompt);
  Sampler sampler(kGreedy, 2);
  const std::string path = testing::TempDir() + "retort_speculation.state";
  Random random(6);
  while (session.tokens().size() < plain.tokens().size()) {
    Speculation speculation(std::make_unique<Oracle>(plain.tokens(), 200, random.next()), 1 + int64_t(random.next() % 8));
    const int64_t room = int64_t(plain.tokens().size() - session.tokens().size());
    ASSERT_TRUE(speculation.step(session, sampler, room, [](int) { return true; }).ok());
    Session loaded(engine);
    ASSERT_TRUE(session.save(path).ok());
    ASSERT_TRUE(loaded.load(path).ok());
    session = random.next() % 2 ? loaded.clone() : session.clone();
  }
  EXPECT_EQ(session.tokens(), plain.tokens());
  std::filesystem::remove(path);
}

TEST(Speculation, ThePenaltySeesWhatWasAccepted) {
  const auto model = load(recurrent_plan());
  Engine engine(model, pool());
  SamplingOptions options = kGreedy;
  options.repeat_penalty = 1.8;
  const auto prompt = some_tokens(11, 9);
  const Session plain = plain_text(engine, prompt, 40, options);
  ASSERT_NE(plain.tokens(), plain_text(engine, prompt, 40).tokens());
  Speculation speculation(std::make_unique<Oracle>(plain.tokens(), 220), 6);
  Sampler sampler(options, 2);
  Session session(engine);
  session.commit(prompt);
  speculate(session, speculation, sampler, 40);
  EXPECT_EQ(session.tokens(), plain.tokens());
}

// Counts of the pairs of tokens that follow a prompt, over many seeds.
using Pairs = std::map<std::pair<int, int>, double>;

// Pearson's chi-square of two samples of the same size, rare cells together; and its degrees of freedom.
std::pair<double, int> chi_square(const Pairs& a, const Pairs& b) {
  Pairs all = a;
  for (const auto& [pair, count] : b) all[pair] += count;
  double sum = 0, rare_a = 0, rare_b = 0;
  int cells = 0;
  const auto add = [&](double x, double y) {
    if (x + y > 0) sum += (x - y) * (x - y) / (x + y), ++cells;
  };
  for (const auto& [pair, count] : all) {
    const double x = a.count(pair) ? a.at(pair) : 0, y = count - x;
    if (count >= 16) add(x, y);
    else rare_a += x, rare_b += y;
  }
  add(rare_a, rare_b);
  return {sum, cells - 1};
}

// Certain of one token, whatever comes.
class Stubborn : public Draft {
 public:
  explicit Stubborn(int token) : token_(token) {}
  Status propose(std::span<const int>, int64_t count, std::vector<Guess>& guesses) override {
    guesses.assign(size_t(count), {token_, {}});
    return {};
  }

 private:
  int token_;
};

enum class Kind { kSameModelHotter, kOtherModel, kStubborn };
class AnyDraft : public testing::TestWithParam<Kind> {};

TEST_P(AnyDraft, SamplesHaveTheModelsDistribution) {
  const auto model = load(recurrent_plan()), other = load(teacher_plan(), 7);
  Engine engine(model, pool());
  const SamplingOptions options{.temperature = 0.7, .top_k = 6, .top_p = 0.95, .min_p = 0.01};
  SamplingOptions hot = options;
  hot.temperature = 3;  // far from what it is judged by
  Session start(engine);
  start.commit(some_tokens(12, 3));
  ASSERT_TRUE(start.consume().ok());
  Session after = start.clone();
  after.commit(7);
  ASSERT_TRUE(after.consume().ok());
  Sampler probe(options, 1);
  const int second = probe.distribution(after.logits(), after.tokens())[1].token;
  const auto draft = [&](uint64_t seed) -> std::unique_ptr<Draft> {
    if (GetParam() == Kind::kStubborn) return std::make_unique<Stubborn>(second);
    if (GetParam() == Kind::kOtherModel) return std::make_unique<ModelDraft>(other, pool(), EngineOptions{}, options, seed);
    return std::make_unique<ModelDraft>(model, pool(), EngineOptions{}, hot, seed);
  };
  Pairs plain, speculated;
  int64_t accepted = 0, judged = 0;
  constexpr int kDraws = 3000;
  for (int i = 0; i < kDraws; ++i) {
    const auto tail = [&](const Session& s) { return std::pair(s.tokens()[13], s.tokens()[14]); };
    Session a = start.clone();
    Sampler sampler_a(options, uint64_t(i));
    a.commit(7);
    for (int t = 0; t < 2; ++t) {
      ASSERT_TRUE(a.consume().ok());
      a.commit(sampler_a.sample(a.logits(), a.tokens()));
    }
    ++plain[tail(a)];
    Session b = start.clone();
    Sampler sampler_b(options, uint64_t(i) + 1000000);
    Speculation speculation(draft(uint64_t(i)), 3);
    b.commit(7);
    speculate(b, speculation, sampler_b, 3);  // one more, so that both tokens of the pair are guessed
    ++speculated[tail(b)];
    accepted += speculation.stats().accepted;
    judged += speculation.stats().judged;
  }
  EXPECT_GT(accepted, judged / 50) << "hardly any guess was taken: nothing was tested";
  EXPECT_LT(accepted, judged);
  const auto [sum, degrees] = chi_square(plain, speculated);
  // One in about 10^5 true samples is further out (normal approximation, 4.3 standard deviations); the seeds are fixed.
  EXPECT_LT(sum, degrees + 4.3 * std::sqrt(2.0 * degrees)) << degrees << " degrees of freedom";
  EXPECT_GE(degrees, 10);
}

INSTANTIATE_TEST_SUITE_P(Drafts, AnyDraft, testing::Values(Kind::kSameModelHotter, Kind::kOtherModel, Kind::kStubborn));

TEST(NgramDraft, ProposesWhatFollowedTheLongestLatestMatch) {
  NgramDraft draft(2, 4);
  const auto propose = [&](std::vector<int> tokens, int64_t count) {
    std::vector<Guess> guesses;
    EXPECT_TRUE(draft.propose(tokens, count, guesses).ok());
    std::vector<int> out;
    for (const Guess& guess : guesses) out.push_back(guess.token);
    return out;
  };
  EXPECT_EQ(propose({1, 2, 3, 9, 1, 2}, 3), (std::vector<int>{3, 9, 1}));
  EXPECT_EQ(propose({5, 1, 2, 3, 7, 1, 2, 4, 5, 1, 2}, 1), (std::vector<int>{3}));  // three tokens match, though two did later
  EXPECT_EQ(propose({1, 2, 3, 8, 1, 2, 4, 6, 1, 2}, 1), (std::vector<int>{4}));     // of equals the latest
  EXPECT_EQ(propose({1, 1, 1}, 5), (std::vector<int>{1}));                          // no further than the text goes
  EXPECT_TRUE(propose({1, 2, 3, 4}, 5).empty());
  EXPECT_TRUE(propose({1}, 5).empty());
  EXPECT_TRUE(propose({}, 5).empty());
}

TEST(Speculation, ExpectedTokens) {
  EXPECT_DOUBLE_EQ(expected_tokens(0, 4), 1);
  EXPECT_DOUBLE_EQ(expected_tokens(1, 4), 5);
  EXPECT_NEAR(expected_tokens(0.7, 4), (1 - std::pow(0.7, 5)) / 0.3, 1e-12);
}

}  // namespace
}  // namespace retort
