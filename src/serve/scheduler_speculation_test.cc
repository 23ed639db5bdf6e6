// Guessing changes when tokens come, never which.
#include "scheduler_client.h"

namespace retort::serve {
namespace {

const SamplingOptions kLikeliest{.temperature = 0, .top_k = 1, .top_p = 1, .min_p = 0};

std::function<std::unique_ptr<Draft>()> model_draft(std::shared_ptr<const Model> model) {
  return [model] { return std::make_unique<ModelDraft>(model, pool(), EngineOptions{}, kLikeliest, 0); };
}

std::vector<GenerationRequest> some_requests() {
  Random random(11);
  std::vector<GenerationRequest> requests;
  for (int i = 0; i < 30; ++i) {
    GenerationRequest r;
    const int length = 1 + int(random.next() % 70);
    for (int t = 0; t < length; ++t) r.prompt.push_back(t % 7 == 3 ? 60 : 60 + t % 5);
    r.max_tokens = int64_t(random.next() % 30);
    r.seed = random.next();
    r.sampling.temperature = i % 2 ? 0.0 : 0.7;
    if (i % 5 == 0) r.sampling.repeat_penalty = 1.2;
    if (i % 3 == 0) r.top_logprobs = 2;
    if (i % 4 == 0) r.stops = {std::string(1, char('a' + random.next() % 26))};
    r.choices = i % 6 ? 1 : 2;
    requests.push_back(r);
  }
  return requests;
}

class Guessing : public testing::TestWithParam<std::string> {};

TEST_P(Guessing, TextsAreThoseOfPlainDecoding) {
  const auto model = model_of(GetParam()), other = model_of(GetParam(), 2);
  const auto requests = some_requests();
  std::vector<std::vector<Heard>> plain;
  {
    auto s = scheduler(model, {.parallel = 1, .prefill_rows = 16});
    for (const auto& r : requests) plain.push_back(ask(*s, r));
  }
  const std::vector<std::function<std::unique_ptr<Draft>()>> drafts{model_draft(model), model_draft(other),
                                                                    [] { return std::make_unique<NgramDraft>(1); }};
  for (size_t d = 0; d < drafts.size(); ++d) {
    for (const int parallel : {1, 4}) {
      auto s = scheduler(model, {.parallel = parallel, .queue = 1000, .prefill_rows = 16, .new_draft = drafts[d], .most_guesses = 3, .judged_rows = 12});
      std::vector<std::unique_ptr<Listener>> listeners;
      for (const auto& r : requests) {
        listeners.push_back(std::make_unique<Listener>(r.choices));
        ASSERT_EQ(s->submit({{r, listeners.back()->sink()}}).refusal, Refusal::kNone);
      }
      int64_t drafted = 0;
      for (size_t i = 0; i < requests.size(); ++i) {
        const auto& heard = listeners[i]->wait();
        for (size_t c = 0; c < heard.size(); ++c) {
          EXPECT_EQ(heard[c].text, plain[i][c].text) << "draft " << d << " request " << i;
          EXPECT_TRUE(same(heard[c].tokens, plain[i][c].tokens)) << "draft " << d << " request " << i;
          EXPECT_EQ(heard[c].finish, plain[i][c].finish);
          EXPECT_LE(heard[c].stats.drafts_accepted, heard[c].stats.drafted);
          drafted += heard[c].stats.drafted;
        }
      }
      const auto counts = s->counts();
      EXPECT_GE(counts.drafted, counts.drafts_accepted);
      EXPECT_EQ(counts.drafted, drafted);
      if (d == 0) {
        EXPECT_GT(counts.drafts_accepted * 5, counts.drafted) << "the model itself guesses well, but half of the texts are sampled";
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Mixers, Guessing, testing::Values("attention", "gla_window", "gla_window_beside_attention", "mamba2", "gated_deltanet"),
                         [](const auto& info) { return info.param; });

GenerationRequest greedy(int64_t tokens) {
  GenerationRequest r;
  r.prompt.assign(40, 66);
  r.max_tokens = tokens;
  r.ignore_eos = true;
  r.sampling.temperature = 0;
  return r;
}

TEST(Speculation, TheModelAsItsOwnDraftTakesFewPasses) {
  const auto model = model_of("gla_window");
  auto s = scheduler(model, {.parallel = 1, .new_draft = model_draft(model), .most_guesses = 4, .judged_rows = 8});
  const auto heard = ask(*s, greedy(101))[0];
  EXPECT_EQ(heard.tokens.size(), 101u);
  EXPECT_LE(s->counts().passes, 22);  // five tokens each
  EXPECT_EQ(heard.stats.drafted, heard.stats.drafts_accepted);
}

TEST(Speculation, ABusyMachineGuessesNothing) {
  const auto model = model_of("gla_window");
  auto s = scheduler(model, {.parallel = 5, .new_draft = model_draft(model), .judged_rows = 4});
  std::vector<std::unique_ptr<Listener>> listeners;
  std::vector<Scheduler::Job> jobs;
  for (int i = 0; i < 5; ++i) {
    listeners.push_back(std::make_unique<Listener>(1));
    jobs.push_back({greedy(50), listeners.back()->sink()});
  }
  ASSERT_EQ(s->submit(std::move(jobs)).refusal, Refusal::kNone);
  for (auto& l : listeners) EXPECT_EQ(l->wait()[0].tokens.size(), 50u);
  EXPECT_LE(s->counts().drafted, 12);  // while the first ones were alone
}

TEST(Speculation, ANamedSlotGoesOnFromWhatWasKept) {
  const auto model = model_of("gla_window_beside_attention");
  auto guessing = scheduler(model, {.parallel = 1, .new_draft = model_draft(model)});
  auto plain = scheduler(model, {.parallel = 1});
  for (auto* s : {guessing.get(), plain.get()}) {
    auto r = greedy(23);
    r.slot = 0;
    const auto first = ask(*s, r)[0];
    EXPECT_EQ(s->slots()[0].tokens, 40 + 22);
  }
  const auto a = guessing->copy_slot(0), b = plain->copy_slot(0);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(a->tokens, b->tokens);
  EXPECT_EQ(a->sequence.fixed_numbers(), b->sequence.fixed_numbers());
}

// A draft reads a long text chunk by chunk, as prompts are read.
TEST(Speculation, ADraftThatIsBehindCatchesUp) {
  const auto model = model_of("gla_window");
  ModelDraft draft(model, pool(), EngineOptions{}, kLikeliest, 0), at_once(model, pool(), EngineOptions{}, kLikeliest, 0);
  std::vector<int> text;
  for (int i = 0; i < 100; ++i) text.push_back(i * 7 % 256);
  int calls = 0;
  for (bool ready = false; !ready; ++calls) {
    const auto caught = draft.catch_up(text, 30);
    ASSERT_TRUE(caught.ok());
    ready = *caught;
  }
  EXPECT_EQ(calls, 4);  // three times 30, and "no more than 10 are left"
  std::vector<Guess> a, b;
  ASSERT_TRUE(draft.propose(text, 4, a).ok());
  ASSERT_TRUE(at_once.propose(text, 4, b).ok());
  ASSERT_EQ(a.size(), 4u);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(a[i].token, b[i].token);
  text.resize(50);  // another branch
  text.push_back(1);
  EXPECT_FALSE(*draft.catch_up(text, 30));
}

}  // namespace
}  // namespace retort::serve
