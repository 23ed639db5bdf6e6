// Where prompts are cut, and what is kept of them.
#include "serve/prompt_cache.h"

#include "scheduler_client.h"

namespace retort::serve {
namespace {

constexpr int kEnd = '~';  // ends a message

Tokenizer tokenizer_with_end() { return *Tokenizer::from_json(test::byte_tokenizer_json(), R"({"eos_token": "~"})"); }

std::vector<int> some_prompt(Random& random, int64_t length) {
  std::vector<int> prompt;
  for (int64_t i = 0; i < length; ++i) prompt.push_back(random.next() % 20 ? int(random.next() % 100) : kEnd);
  return prompt;
}

std::vector<int64_t> ends_of(const PromptCache& cache, std::span<const int> prompt) {
  std::vector<int64_t> ends;
  for (int64_t at = 0; at < int64_t(prompt.size());) ends.push_back(at = cache.chunk_end(prompt, at));
  return ends;
}

TEST(PromptCache, ChunksEndAtMultiplesAndAfterMessages) {
  const Tokenizer tokenizer = tokenizer_with_end();
  const PromptCache cache(0, 100, tokenizer);
  std::vector<int> prompt(350, 65);
  EXPECT_EQ(ends_of(cache, prompt), (std::vector<int64_t>{100, 200, 300, 350}));
  for (const int at : {30, 50, 60, 131, 349}) prompt[size_t(at)] = kEnd;  // 30: too early; 60: too soon after 50
  EXPECT_EQ(ends_of(cache, prompt), (std::vector<int64_t>{51, 100, 132, 200, 300, 350}));
  EXPECT_EQ(ends_of(cache, std::span(prompt).first(1)), std::vector<int64_t>{1});
}

// The ends of a beginning are those of the whole: so a state kept for one prompt is one that another would make.
TEST(PromptCache, EndsDependOnTheTokensBeforeThemAlone) {
  const Tokenizer tokenizer = tokenizer_with_end();
  Random random(1);
  for (int i = 0; i < 200; ++i) {
    const PromptCache cache(0, 1 + int64_t(random.next() % 150), tokenizer);
    const auto prompt = some_prompt(random, 1 + int64_t(random.next() % 600));
    const auto ends = ends_of(cache, prompt);
    const size_t length = 1 + random.next() % prompt.size();
    auto of_beginning = ends_of(cache, std::span(prompt).first(length));
    of_beginning.pop_back();  // where the beginning itself ends
    ASSERT_LE(of_beginning.size(), ends.size());
    EXPECT_TRUE(std::equal(of_beginning.begin(), of_beginning.end(), ends.begin()));
  }
}

TEST(PromptCache, ABudgetThatHoldsNothingIsSaidOnce) {
  const auto model = model_of("gla_window");
  const Tokenizer tokenizer = tokenizer_with_end();
  PromptCache tiny(10, 16, tokenizer), none(0, 16, tokenizer), plenty(1 << 24, 16, tokenizer);
  EXPECT_NE(tiny.warning(*model->layout()).find(" holds no state of "), std::string::npos);
  EXPECT_EQ(tiny.warning(*model->layout()), "");
  EXPECT_EQ(none.warning(*model->layout()), "");
  EXPECT_EQ(plenty.warning(*model->layout()), "");
}

// Asks twice, in one scheduler, and once in a fresh one without a cache; logits show in the log-probabilities, to the bit.
class CachedScheduler : public testing::TestWithParam<std::string> {
 protected:
  const std::shared_ptr<const Model> model_ = model_of(GetParam());
  const Tokenizer tokenizer_ = tokenizer_with_end();

  std::unique_ptr<Scheduler> start(int64_t cache_bytes, int parallel = 3) {
    return scheduler(model_, {.parallel = parallel, .queue = 1000, .prefill_rows = 48, .cache_bytes = cache_bytes}, tokenizer_);
  }
  static GenerationRequest request(std::vector<int> prompt, uint64_t seed) {
    GenerationRequest r;
    r.prompt = std::move(prompt);
    r.max_tokens = 6;
    r.seed = seed;
    r.ignore_eos = true;
    r.top_logprobs = 3;
    return r;
  }
  static void expect_same(const Heard& a, const Heard& b, const std::string& what) {
    EXPECT_EQ(a.text, b.text) << what;
    EXPECT_TRUE(same(a.tokens, b.tokens)) << what;
    EXPECT_TRUE(same(a.prompt, b.prompt)) << what;
  }
};

TEST_P(CachedScheduler, AContinuedPromptGetsTheBitsOfAFreshOne) {
  Random random(3);
  auto cached = start(64 << 20);
  const auto system = some_prompt(random, 150);
  int64_t hits = 0;
  for (int i = 0; i < 25; ++i) {
    auto prompt = system;
    prompt.resize(random.next() % 3 ? system.size() : 1 + random.next() % system.size());  // another text from there on
    const auto rest = some_prompt(random, int64_t(random.next() % 120));
    prompt.insert(prompt.end(), rest.begin(), rest.end());
    auto r = request(prompt, random.next());
    r.choices = 1 + int(random.next() % 2);
    r.prompt_logprobs = random.next() % 5 == 0;
    const auto answers = ask(*cached, r);
    auto fresh = start(0);
    const auto expected = ask(*fresh, r);
    for (size_t c = 0; c < answers.size(); ++c) expect_same(answers[c], expected[c], cat("request ", i, " choice ", c));
    hits += answers[0].stats.cached_tokens > 0;
    EXPECT_EQ(expected[0].stats.cached_tokens, 0);
    if (r.prompt_logprobs) {
      EXPECT_EQ(answers[0].stats.cached_tokens, 0);
    }
    // Again: everything up to the last end before the prompt's is there.
    const auto again = ask(*cached, r);
    expect_same(again[0], expected[0], cat("request ", i, " again"));
    if (prompt.size() > 48 && !r.prompt_logprobs) {
      EXPECT_GE(again[0].stats.cached_tokens, int64_t(prompt.size()) - 48);
    }
  }
  EXPECT_GT(hits, 10);
  const auto counts = cached->counts();
  EXPECT_GT(counts.cache.states, 0);
  EXPECT_GT(counts.cached_tokens, 0);
  EXPECT_GT(counts.looked_up_tokens, counts.cached_tokens);
}

TEST_P(CachedScheduler, ManyAtOnceUnderASmallBudget) {
  Random random(5);
  std::vector<GenerationRequest> requests;
  std::vector<std::vector<int>> systems;
  for (int i = 0; i < 4; ++i) systems.push_back(some_prompt(random, 100 + int64_t(random.next() % 100)));
  for (int i = 0; i < 48; ++i) {
    auto prompt = systems[random.next() % 4];
    const auto rest = some_prompt(random, int64_t(random.next() % 80));
    prompt.insert(prompt.end(), rest.begin(), rest.end());
    requests.push_back(request(prompt, random.next()));
  }
  const int64_t state = [&] {  // one state with its tokens
    auto s = start(64 << 20);
    ask(*s, requests[0]);
    return s->counts().cache.bytes / std::max<int64_t>(1, s->counts().cache.states);
  }();
  auto alone = start(0, 1);
  auto together = start(3 * state, 6);
  std::vector<std::unique_ptr<Listener>> listeners;
  for (const auto& r : requests) {
    listeners.push_back(std::make_unique<Listener>(1));
    ASSERT_EQ(together->submit({{r, listeners.back()->sink()}}).refusal, Refusal::kNone);
  }
  for (size_t i = 0; i < requests.size(); ++i) expect_same(listeners[i]->wait()[0], ask(*alone, requests[i])[0], cat("request ", i));
  const auto counts = together->counts();
  EXPECT_LE(counts.cache.bytes, 3 * state);
  EXPECT_GT(counts.cache.evicted, 0);
  EXPECT_GT(counts.cached_tokens, 0);
}

INSTANTIATE_TEST_SUITE_P(Mixers, CachedScheduler,
                         testing::Values("attention", "gla_window", "gla_window_beside_attention", "mamba2_beside_attention", "gated_deltanet"),
                         [](const auto& info) { return info.param; });

class CachedOnGla : public CachedScheduler {};
INSTANTIATE_TEST_SUITE_P(One, CachedOnGla, testing::Values("gla_window"));

TEST_P(CachedOnGla, WhoSaysNoIsNeitherHelpedNorKept) {
  auto s = start(64 << 20);
  auto r = request(std::vector<int>(100, 65), 1);
  r.cache = false;
  ask(*s, r);
  EXPECT_EQ(s->counts().cache.states, 0);
  r.cache = true;
  EXPECT_EQ(ask(*s, r)[0].stats.cached_tokens, 0);
  EXPECT_EQ(ask(*s, r)[0].stats.cached_tokens, 96);
  r.cache = false;
  EXPECT_EQ(ask(*s, r)[0].stats.cached_tokens, 0);
}

// What a client put into a slot, or what decoding made, must not reach anybody else.
TEST_P(CachedOnGla, StatesOfSlotsStayTheirs) {
  auto s = start(64 << 20);
  const std::vector<int> tokens(48, 66);
  Sequence forged = model_->new_sequence();
  for (float& v : forged.fixed_numbers()) v = 3.5f;
  forged.set_position(48);
  ASSERT_TRUE(s->put_slot(0, SavedState{tokens, forged}).ok());
  auto r = request(std::vector<int>(200, 66), 1);
  r.slot = 0;
  EXPECT_EQ(ask(*s, r)[0].stats.cached_tokens, 48);
  EXPECT_EQ(s->counts().cache.states, 0);
  r.slot = -1;
  auto fresh = start(0);
  expect_same(ask(*s, r)[0], ask(*fresh, r)[0], "beside the forged state");
}

// Four that begin alike read in turn; the first to keep a state spares the others what is left.
TEST_P(CachedOnGla, WhoIsStillReadingLooksAgain) {
  auto s = start(64 << 20, 4);
  std::vector<std::unique_ptr<Listener>> listeners;
  std::vector<Scheduler::Job> jobs;
  for (int i = 0; i < 4; ++i) {
    std::vector<int> prompt(48 * 12, 65);
    prompt.push_back(i);
    listeners.push_back(std::make_unique<Listener>(1));
    jobs.push_back({request(prompt, 1), listeners.back()->sink()});
  }
  ASSERT_EQ(s->submit(std::move(jobs)).refusal, Refusal::kNone);
  for (auto& l : listeners) l->wait();
  EXPECT_GE(s->counts().cached_tokens, 4 * 48);
}

}  // namespace
}  // namespace retort::serve
