// What is behind the handles of the C interface.
//
// Layer: capi. A Core is shared by all that was made from one model, and thread-safe; the rest belongs to one thread at
// a time.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <retort/retort.h>

#include "base/threads.h"
#include "io/chat_template.h"
#include "io/tokenizer.h"
#include "io/utf8.h"
#include "runtime/model.h"
#include "runtime/sampling.h"
#include "runtime/session.h"
#include "runtime/trial.h"

namespace retort::capi {

// Engines on one model. They have the scratch memory of passes, so there are as many as passes ran at once, not one per
// session.
class Engines {
 public:
  Engines(std::shared_ptr<const Model> model, ThreadPool& pool, EngineOptions options)
      : model_(std::move(model)), pool_(pool), options_(options) {}

  // One for a while; given back by the destructor. Its memory stays valid as long as the Engines.
  class Borrowed {
   public:
    explicit Borrowed(Engines& from) : from_(&from), engine_(&from.take()) {}
    Borrowed(Borrowed&& other) noexcept : from_(other.from_), engine_(std::exchange(other.engine_, nullptr)) {}
    Borrowed& operator=(Borrowed&&) = delete;
    ~Borrowed() {
      if (engine_) from_->give_back(*engine_);
    }
    Engine& operator*() const { return *engine_; }

   private:
    Engines* from_;
    Engine* engine_;
  };

 private:
  Engine& take();
  void give_back(Engine& engine) noexcept;

  std::shared_ptr<const Model> model_;
  ThreadPool& pool_;
  EngineOptions options_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Engine>> all_;
  std::vector<Engine*> free_;
};

struct Core {
  Core(std::unique_ptr<ThreadPool> threads, std::shared_ptr<const Model> loaded, EngineOptions options,
       Result<Tokenizer> with)
      : pool(std::move(threads)),
        model(std::move(loaded)),
        tokenizer(std::move(with)),
        no_tokens(tokenizer.ok() ? tokenizer->ids_without_token(model->config().vocab_size) : std::vector<int32_t>()),
        chat_template(tokenizer.ok() ? ChatTemplate::of(*tokenizer) : Result<ChatTemplate>(tokenizer.error())),
        engines(model, *pool, options) {}

  std::unique_ptr<ThreadPool> pool;
  std::shared_ptr<const Model> model;
  Result<Tokenizer> tokenizer;  // a model without one still runs on ids
  std::vector<int32_t> no_tokens;  // ids that no token has
  Result<ChatTemplate> chat_template;
  Engines engines;
};

}  // namespace retort::capi

struct retort_model {
  std::shared_ptr<retort::capi::Core> core;
};

struct retort_stream {
  retort::Tokenizer tokenizer;
  std::vector<std::string> stops;
  retort::TextStream text;
  std::string out;
};

struct retort_session {
  std::shared_ptr<retort::capi::Core> core;
  retort::Session session;  // nothing pending between calls
  bool torn = false;        // a call ended in the middle of a change
  retort::Trial trial;
  std::optional<retort::capi::Engines::Borrowed>
      trial_engine;  // must live, and be left alone, until the trial is decided
  std::vector<int> on_trial;
  std::vector<float> trial_logits;  // [on_trial, vocabulary]
};

struct retort_sampler {
  retort::Sampler sampler;
  int64_t vocabulary = 0;  // what it has drawn from; penalties remember tokens of it
};
