// A scheduler on a tiny random model of bytes, and somebody who listens to it. Header-only; test programs only.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "serve/scheduler.h"
#include "support/tiny_model.h"
#include "tiny_model.h"

namespace retort::serve {

inline ThreadPool& pool() {
  static ThreadPool pool(2);
  return pool;
}

// Tokens are bytes, so random ones make characters that come in pieces, or broken ones.
inline Tokenizer byte_tokenizer() {
  static const Tokenizer tokenizer = *Tokenizer::from_json(test::byte_tokenizer_json(), "");
  return tokenizer;
}

// 260 tokens, as the byte tokenizer needs.
inline ModelFiles byte_model(const std::vector<LayerPlan>& plan, uint64_t seed = 1) {
  ModelFiles files = testing_support::tiny_files(plan);
  files.config.vocab_size = 260;
  files.weights = std::make_shared<testing_support::RandomStore>(files.config, seed);
  return files;
}

inline std::vector<LayerPlan> plan_named(const std::string& name) {
  for (const auto& plan : testing_support::plans_of_every_mixer()) {
    if (plan.name == name) return plan.plan;
  }
  ADD_FAILURE() << name;
  return {};
}

inline std::shared_ptr<const Model> model_of(const std::string& plan, uint64_t seed = 1) {
  auto model = Model::load(byte_model(plan_named(plan), seed), WeightFormat::kF32, pool());
  EXPECT_TRUE(model.ok()) << (model.ok() ? "" : model.error().message);
  return *model;
}

// Everything that a request was told, per choice.
struct Heard {
  std::string text;
  std::vector<ScoredToken> prompt, tokens;
  std::optional<Finish> finish;
  int finishes = 0, updates = 0;
  bool whole_characters = true;
  GenerationStats stats;
};

class Listener {
 public:
  explicit Listener(int choices) : heard_(size_t(choices)) {}
  GenerationSink sink() {
    return [this](const GenerationUpdate& u) {
      std::lock_guard lock(mutex_);
      Heard& h = heard_[size_t(u.choice)];
      h.text += u.text;
      h.whole_characters = h.whole_characters && utf8::is_valid(u.text);
      h.prompt.insert(h.prompt.end(), u.prompt.begin(), u.prompt.end());
      h.tokens.insert(h.tokens.end(), u.tokens.begin(), u.tokens.end());
      ++h.updates;
      if (!u.finish) return;
      h.finish = u.finish;
      h.stats = u.stats;
      ++h.finishes;
      if (++over_ == int(heard_.size())) done_.notify_all();
    };
  }
  const std::vector<Heard>& wait() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(done_.wait_for(lock, std::chrono::seconds(60), [&] { return over_ == int(heard_.size()); }));
    return heard_;
  }
  int over() {
    std::lock_guard lock(mutex_);
    return over_;
  }
  int updates(int choice) {
    std::lock_guard lock(mutex_);
    return heard_[size_t(choice)].updates;
  }

 private:
  std::mutex mutex_;
  std::condition_variable done_;
  std::vector<Heard> heard_;
  int over_ = 0;
};

inline std::vector<int> ids(const std::vector<ScoredToken>& tokens) {
  std::vector<int> out;
  for (const auto& t : tokens) out.push_back(t.token);
  return out;
}

inline bool same(const std::vector<ScoredToken>& a, const std::vector<ScoredToken>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const ScoredToken& x, const ScoredToken& y) {
    return x.token == y.token && x.scored == y.scored && x.logprob == y.logprob && x.top == y.top;
  });
}

inline std::unique_ptr<Scheduler> scheduler(const std::shared_ptr<const Model>& model, SchedulerOptions options,
                                            const Tokenizer& tokenizer = byte_tokenizer()) {
  return std::make_unique<Scheduler>(model, pool(), EngineOptions{}, tokenizer, std::move(options));
}

inline std::vector<Heard> ask(Scheduler& scheduler, const GenerationRequest& request) {
  Listener listener(request.choices);
  EXPECT_TRUE(scheduler.check(request).ok());
  EXPECT_EQ(scheduler.submit({{request, listener.sink()}}).refusal, Refusal::kNone);
  return listener.wait();
}

}  // namespace retort::serve
