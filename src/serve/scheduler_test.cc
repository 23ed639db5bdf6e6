// The scheduler on tiny random models: what many requests at once get is what each gets alone.
#include "scheduler_client.h"

#include <future>

#include "runtime/session.h"

namespace retort::serve {
namespace {

GenerationRequest random_request(Random& random) {
  GenerationRequest r;
  const int length = 1 + int(random.next() % (random.next() % 4 ? 20 : 90));
  for (int i = 0; i < length; ++i) r.prompt.push_back(int(random.next() % 256));
  r.seed = random.next();
  r.max_tokens = int64_t(random.next() % 30);
  r.sampling.temperature = random.next() % 3 ? 1.0 : 0.0;
  r.choices = random.next() % 5 ? 1 : 3;
  if (random.next() % 3 == 0) r.top_logprobs = int(random.next() % 4);
  r.prompt_logprobs = r.top_logprobs >= 0 && random.next() % 2;
  if (random.next() % 2) r.stops = {"ab", std::string(1, char('a' + random.next() % 26))};
  if (random.next() % 3 == 0) r.sampling.frequency_penalty = 0.5;
  return r;
}

class SchedulerEveryMixer : public testing::TestWithParam<std::string> {};

TEST_P(SchedulerEveryMixer, RandomArrivalsGetWhatTheyGetAlone) {
  const auto model = model_of(GetParam());
  Random random(7);
  std::vector<GenerationRequest> requests;
  for (int i = 0; i < 40; ++i) requests.push_back(random_request(random));
  std::vector<std::vector<Heard>> alone;
  {
    auto one = scheduler(model, {.parallel = 1, .prefill_rows = 16});
    for (const auto& r : requests) alone.push_back(ask(*one, r));
  }
  auto many = scheduler(model, {.parallel = 5, .queue = 1000, .prefill_rows = 16});
  std::vector<std::unique_ptr<Listener>> listeners;
  for (const auto& r : requests) {
    listeners.push_back(std::make_unique<Listener>(r.choices));
    ASSERT_EQ(many->submit({{r, listeners.back()->sink()}}).refusal, Refusal::kNone);
    if (random.next() % 3 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random.next() % 3000));
  }
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto& together = listeners[i]->wait();
    for (size_t c = 0; c < together.size(); ++c) {
      EXPECT_EQ(together[c].text, alone[i][c].text) << "request " << i << " choice " << c;
      EXPECT_TRUE(same(together[c].tokens, alone[i][c].tokens)) << "request " << i << " choice " << c;
      EXPECT_TRUE(same(together[c].prompt, alone[i][c].prompt)) << "request " << i << " choice " << c;
      EXPECT_EQ(together[c].finish, alone[i][c].finish);
      EXPECT_EQ(together[c].finishes, 1);
      EXPECT_TRUE(together[c].whole_characters);
    }
  }
  const auto counts = many->counts();
  EXPECT_EQ(counts.finished, 40);
  EXPECT_EQ(counts.running + counts.waiting, 0);
  EXPECT_GT(counts.decoding_rows, counts.passes) << "nothing was batched";
}

// What the session, which knows nothing of batches, draws from the same prompt.
TEST_P(SchedulerEveryMixer, TheTokensAreThoseOfASession) {
  const auto model = model_of(GetParam());
  Engine engine(model, pool());
  GenerationRequest r;
  for (int i = 0; i < 45; ++i) r.prompt.push_back(i * 5 % 256);
  r.max_tokens = 20;
  r.seed = 5;
  Session session(engine);
  session.commit(r.prompt);
  SamplingOptions sampling = r.sampling;
  sampling.never = byte_tokenizer().ids_without_token(260);
  Sampler sampler(sampling, r.seed);
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(session.consume({}, 16).ok());
    session.commit(sampler.sample(session.logits(), session.tokens()));
  }
  auto s = scheduler(model, {.parallel = 2, .prefill_rows = 16});
  EXPECT_EQ(ids(ask(*s, r)[0].tokens), std::vector<int>(session.tokens().begin() + 45, session.tokens().end()));
}

INSTANTIATE_TEST_SUITE_P(Mixers, SchedulerEveryMixer, testing::Values("attention", "gla_beside_attention", "mamba2", "gated_deltanet"),
                         [](const auto& info) { return info.param; });

class SchedulerOnAttention : public testing::Test {
 protected:
  const std::shared_ptr<const Model> model_ = model_of("attention");
  GenerationRequest request(int64_t tokens) {
    GenerationRequest r;
    r.prompt = {72, 105};
    r.max_tokens = tokens;
    r.seed = 3;
    return r;
  }
};

// Rows of the head beyond the tokenizer's vocabulary are the likeliest by far: they are never drawn, by nobody; log-probabilities are over all rows.
TEST_F(SchedulerOnAttention, NothingButTokensIsDrawn) {
  ModelFiles files = byte_model(plan_named("attention"));
  files.config.tie_embeddings = false;
  const auto store = std::make_shared<testing_support::RandomStore>(files.config, 1);
  test::let_padding_win(store->values("lm_head.weight"));
  files.weights = store;
  const std::shared_ptr<const Model> model = *Model::load(files, WeightFormat::kF32, pool());
  const SamplingOptions likeliest{.temperature = 0, .top_k = 1, .top_p = 1, .min_p = 0};
  const std::vector<std::function<std::unique_ptr<Draft>()>> drafts{
      {}, [] { return std::make_unique<NgramDraft>(1); }, [&] { return std::make_unique<ModelDraft>(model, pool(), EngineOptions{}, likeliest, 0); }};
  for (const auto& draft : drafts) {
    auto s = scheduler(model, {.parallel = 2, .prefill_rows = 16, .new_draft = draft});
    for (const double temperature : {0.0, 1.5}) {
      for (const bool json : {false, true}) {
        GenerationRequest r = request(12);
        r.prompt = {256, 257, 258, 259, 256, 257};   // n-grams guess what is there
        r.sampling.temperature = temperature;
        r.json = json;
        r.top_logprobs = 1;
        const auto made = ask(*s, r)[0].tokens;
        ASSERT_GT(made.size(), json ? 0u : 11u);
        for (const ScoredToken& t : made) {
          EXPECT_LT(t.token, 256);
          EXPECT_GE(t.top[0].first, 256) << "the raw distribution";
          EXPECT_LT(t.logprob, t.top[0].second);
        }
      }
    }
  }
}

TEST_F(SchedulerOnAttention, LogProbabilitiesAreThoseOfTheModel) {
  auto r = request(1);
  r.prompt = {1, 2, 3, 4, 5, 6, 7};
  r.top_logprobs = 2;
  r.prompt_logprobs = true;
  r.sampling.temperature = 0;
  auto s = scheduler(model_, {.parallel = 1, .prefill_rows = 4});
  const Heard heard = ask(*s, r)[0];
  ASSERT_EQ(ids(heard.prompt), r.prompt);
  EXPECT_FALSE(heard.prompt[0].scored);
  Engine engine(model_, pool());
  Sequence sequence = model_->new_sequence();
  for (size_t t = 0; t < r.prompt.size(); ++t) {
    std::vector<float> logits;
    const BatchItem item{&sequence, std::span(r.prompt).subspan(t, 1), WantLogits::kLast};
    ASSERT_TRUE(engine.forward({&item, 1}, [&](const LogitsRows& rows) { logits.assign(rows.data, rows.data + 260); }).ok());
    double sum = 0;
    for (const float l : logits) sum += std::exp(double(l));
    const ScoredToken& scored = t + 1 < r.prompt.size() ? heard.prompt[t + 1] : heard.tokens.at(0);
    EXPECT_TRUE(scored.scored);
    EXPECT_NEAR(scored.logprob, double(logits[size_t(scored.token)]) - std::log(sum), 2e-4);  // rows and steps sum in other orders
    ASSERT_EQ(scored.top.size(), 2u);
    EXPECT_GE(scored.top[0].second, scored.top[1].second);
    EXPECT_NEAR(scored.top[0].second, double(*std::max_element(logits.begin(), logits.end())) - std::log(sum), 2e-4);
  }
  EXPECT_EQ(heard.tokens[0].logprob, heard.tokens[0].top[0].second) << "greedy: the same number, to the bit";
}

TEST_F(SchedulerOnAttention, AStopTextNeverLeaks) {
  auto s = scheduler(model_, {.parallel = 1});
  auto r = request(200);
  for (int i = 0; i < 260; ++i) {
    if (i < 'a' || i > 'f') r.sampling.logit_bias.emplace_back(i, -1000.0f);  // stops that are made of whole bytes, and nearly come often
  }
  const Heard free = ask(*s, r)[0];
  ASSERT_EQ(free.text.size(), 200u);
  for (const size_t length : {1, 2, 3, 5, 9}) {
    const std::string stop = free.text.substr(60, length);
    r.stops = {stop};
    const Heard stopped = ask(*s, r)[0];
    EXPECT_EQ(stopped.finish, Finish::kStop);
    EXPECT_EQ(stopped.text, free.text.substr(0, free.text.find(stop)));
    std::string bytes;
    for (const auto& t : stopped.tokens) bytes += byte_tokenizer().token_bytes(t.token);
    EXPECT_EQ(bytes, stopped.text) << "the tokens end where the text does";
  }
}

// Random weights would rather write anything else.
TEST_F(SchedulerOnAttention, JsonIsKeptAndEndsTheAnswer) {
  auto s = scheduler(model_, {.parallel = 3});
  auto r = request(400);
  r.json = true;
  r.choices = 12;
  for (int i = 0; i < 260; ++i) r.sampling.logit_bias.emplace_back(i, std::string_view("{}[],:\"ab1 ").find(char(i)) != std::string_view::npos ? 0.0f : -20.0f);
  int wholes = 0;
  for (const Heard& heard : ask(*s, r)) {
    EXPECT_EQ(nlohmann::json::accept(heard.text), heard.finish == Finish::kStop) << heard.text;
    JsonGuard guard;
    EXPECT_TRUE(guard.accept(heard.text)) << heard.text;
    wholes += heard.finish == Finish::kStop;
  }
  EXPECT_GT(wholes, 0);
}

TEST_F(SchedulerOnAttention, ALongPromptDoesNotStallRunningStreams) {
  auto s = scheduler(model_, {.parallel = 2, .prefill_rows = 8});
  Listener quick(1), slow(1);
  ASSERT_EQ(s->submit({{request(100000), quick.sink()}}).refusal, Refusal::kNone);
  while (quick.updates(0) < 3) std::this_thread::yield();
  auto longer = request(1);
  longer.prompt.assign(400, 65);  // 50 passes
  const int before = quick.updates(0);
  const auto ticket = s->submit({{longer, slow.sink()}});
  slow.wait();
  EXPECT_GE(quick.updates(0) - before, 25);  // random bytes: not every token makes a whole character at once
  s->stop(Clock::now());
  EXPECT_EQ(quick.wait()[0].finish, Finish::kCancelled);
}

// Of one request's many choices some wait while another request runs that came after them.
TEST_F(SchedulerOnAttention, OneRequestOfManyChoicesDoesNotKeepTheOthersOut) {
  auto s = scheduler(model_, {.parallel = 2, .queue = 100});
  auto greedy = request(200);
  greedy.choices = 60;
  greedy.ignore_eos = true;
  Listener many(60), few(1);
  ASSERT_EQ(s->submit({{greedy, many.sink()}}).refusal, Refusal::kNone);
  while (many.over() < 2) std::this_thread::yield();
  ASSERT_EQ(s->submit({{request(1), few.sink()}}).refusal, Refusal::kNone);
  few.wait();
  EXPECT_LT(many.over(), 50);
  many.wait();
}

// NaN is what a forged state makes of everything: of its own request, and of nobody else's.
TEST_F(SchedulerOnAttention, APoisonedSlotHarmsNobodyElse) {
  const auto model = model_of("gla_window");
  auto s = scheduler(model, {.parallel = 2, .cache_bytes = 1 << 20});
  auto r = request(20);
  r.prompt.assign(30, 65);
  const Heard alone = ask(*s, r)[0];
  Sequence forged = model->new_sequence();
  for (float& v : forged.fixed_numbers()) v = std::numeric_limits<float>::quiet_NaN();
  forged.set_position(10);
  ASSERT_TRUE(s->put_slot(0, SavedState{std::vector<int>(10, 65), forged}).ok());
  auto poisoned = r;
  poisoned.slot = 0;
  poisoned.max_tokens = 200;
  poisoned.top_logprobs = 2;
  Listener bad(1);
  ASSERT_EQ(s->submit({{poisoned, bad.sink()}}).refusal, Refusal::kNone);
  EXPECT_EQ(ask(*s, r)[0].text, alone.text);
  EXPECT_EQ(bad.wait()[0].stats.cached_tokens, 10);
  EXPECT_EQ(ask(*s, r)[0].text, alone.text);
}

TEST_F(SchedulerOnAttention, AFullQueueRefusesAndCancellingMakesRoom) {
  auto s = scheduler(model_, {.parallel = 1, .queue = 2});
  Listener a(1), b(1), c(1), d(1);
  const auto first = s->submit({{request(1 << 30), a.sink()}});
  while (a.updates(0) < 1) std::this_thread::yield();
  const auto second = s->submit({{request(1 << 30), b.sink()}});
  ASSERT_EQ(s->submit({{request(1), c.sink()}}).refusal, Refusal::kNone);
  EXPECT_EQ(s->submit({{request(1), d.sink()}}).refusal, Refusal::kFull);
  EXPECT_EQ(s->counts().refused, 1);
  s->cancel(first.ids[0]);
  s->cancel(second.ids[0]);
  s->cancel(12345);
  EXPECT_EQ(a.wait()[0].finish, Finish::kCancelled);
  EXPECT_EQ(b.wait()[0].finish, Finish::kCancelled);
  EXPECT_EQ(c.wait()[0].finish, Finish::kLength);
  EXPECT_EQ(s->counts().cancelled, 2);
}

TEST_F(SchedulerOnAttention, DeadlinesEndWhatRunsAndWhatWaits) {
  auto s = scheduler(model_, {.parallel = 1});
  Listener a(1), b(2);
  auto running = request(1 << 30), waiting = request(5);
  running.deadline = Clock::now() + std::chrono::milliseconds(150);
  waiting.deadline = Clock::now() + std::chrono::milliseconds(20);
  waiting.choices = 2;
  ASSERT_EQ(s->submit({{running, a.sink()}}).refusal, Refusal::kNone);
  ASSERT_EQ(s->submit({{waiting, b.sink()}}).refusal, Refusal::kNone);
  EXPECT_EQ(b.wait()[0].finish, Finish::kLate);
  EXPECT_EQ(b.wait()[1].finish, Finish::kLate);
  EXPECT_EQ(a.wait()[0].finish, Finish::kLength);
  EXPECT_GT(a.wait()[0].tokens.size(), 0u);
}

TEST_F(SchedulerOnAttention, TheContextIsALimit) {
  auto s = scheduler(model_, {.parallel = 1, .context = 10});
  auto r = request(100);
  EXPECT_EQ(ask(*s, r)[0].tokens.size(), 9u);  // positions 0 to 9 are consumed, and one more is known
  r.prompt.assign(11, 65);
  EXPECT_EQ(s->check(r).error().message, "the prompt has 11 tokens; this server's context is 10");
  r.prompt.clear();
  EXPECT_FALSE(s->check(r).ok());
  r.prompt = {260};
  EXPECT_FALSE(s->check(r).ok());
}

TEST_F(SchedulerOnAttention, ANamedSlotKeepsItsState) {
  auto s = scheduler(model_, {.parallel = 2, .prefill_rows = 8});
  auto r = request(4);
  r.slot = 1;
  r.prompt.assign(16, 66);
  const auto first = ask(*s, r)[0];
  EXPECT_EQ(first.stats.cached_tokens, 0);
  EXPECT_EQ(s->slots()[1].tokens, 19);
  EXPECT_FALSE(s->copy_slot(0).ok());
  auto saved = s->copy_slot(1);
  ASSERT_TRUE(saved.ok());
  ASSERT_TRUE(s->put_slot(1, std::nullopt).ok());
  EXPECT_EQ(s->slots()[1].tokens, 0);
  ASSERT_TRUE(s->put_slot(0, *saved).ok());
  auto next = r;
  for (const auto& t : first.tokens) next.prompt.push_back(t.token);
  next.prompt.push_back(33);
  const auto whole = ask(*s, next)[0];  // slot 1 is empty
  EXPECT_EQ(whole.stats.cached_tokens, 0);
  next.slot = 0;
  const auto continued = ask(*s, next)[0];
  EXPECT_EQ(continued.stats.cached_tokens, 19);
  EXPECT_EQ(ids(continued.tokens), ids(whole.tokens));
  EXPECT_FALSE(s->put_slot(2, std::nullopt).ok());
}

TEST_F(SchedulerOnAttention, AnEndedSlotIsWholeAndGoesOn) {
  auto s = scheduler(model_, {.parallel = 2, .prefill_rows = 8});
  auto r = request(1 << 30);
  r.slot = 1;
  Listener listener(1);
  EXPECT_TRUE(s->end_slot(1).ok()) << "idle: nothing happens";
  ASSERT_EQ(s->submit({{r, listener.sink()}}).refusal, Refusal::kNone);
  while (listener.updates(0) < 3) std::this_thread::yield();
  EXPECT_TRUE(s->end_slot(0).ok());
  EXPECT_EQ(s->slots()[1].busy, true);
  EXPECT_TRUE(s->end_slot(1).ok());
  const Heard heard = listener.wait()[0];
  EXPECT_EQ(heard.finish, Finish::kLength);
  EXPECT_EQ(heard.stats.made_tokens, int64_t(heard.tokens.size()));
  EXPECT_EQ(s->slots()[1].tokens, int64_t(r.prompt.size() + heard.tokens.size()) - 1) << "the state is that of the text";
  r.max_tokens = 3;
  r.prompt.insert(r.prompt.end(), {1, 2, 3});
  EXPECT_EQ(ask(*s, r)[0].tokens.size(), 3u) << "the next one is not ended";
  EXPECT_FALSE(s->end_slot(2).ok());
}

TEST_F(SchedulerOnAttention, AStateThatDoesNotFitIsRefused) {
  auto s = scheduler(model_, {.parallel = 1, .context = 10});
  auto r = request(4);
  r.slot = 0;
  ask(*s, r);
  const SavedState fits = *s->copy_slot(0);
  EXPECT_TRUE(s->put_slot(0, fits).ok());
  SavedState none = fits, longer = fits;
  none.sequence.reset();
  EXPECT_EQ(s->put_slot(0, none).error().message, "the state is that of no token");
  longer.sequence.set_position(11);
  longer.tokens.resize(11);
  EXPECT_EQ(s->put_slot(0, longer).error().message, "the state has 11 tokens; this server's context is 10");
  EXPECT_EQ(s->slots()[0].tokens, 5) << "what was there stays";
}

TEST_F(SchedulerOnAttention, StoppingLetsRunningRequestsFinish) {
  auto s = scheduler(model_, {.parallel = 1});
  Listener a(1), b(1);
  ASSERT_EQ(s->submit({{request(50), a.sink()}}).refusal, Refusal::kNone);
  s->stop(Clock::now() + std::chrono::seconds(60));
  EXPECT_EQ(a.wait()[0].finish, Finish::kLength);
  EXPECT_EQ(s->submit({{request(1), b.sink()}}).refusal, Refusal::kStopping);
}

}  // namespace
}  // namespace retort::serve
