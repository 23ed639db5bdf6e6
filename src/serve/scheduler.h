// Continuous batching: requests join and leave one decoding batch, pass by pass.
//
// Layer: serve. Thread-safe. A thread of its own owns the engine; sinks are called there.
//
// A pass has one row for every choice that is making text, and rows of prompts: whole chunks, taken in turn from the sequences that
// are still reading theirs, at most `prefill_rows` of them together. So a long prompt delays the others by one chunk a pass, and short
// prompts share one. Where a prompt's chunks end depends on its tokens alone (prompt_cache.h), and a row of a pass does not depend on its
// neighbours: a request's tokens are, to the bit, those that it gets alone, whatever was asked before.
//
// With a draft, a choice may have several rows in a pass: its last token and guesses of those after it, in the form of decoding steps
// (runtime/trial.h). A guess counts when the choice's own sampler draws the same token from the row before, so text and random numbers
// are those of plain decoding, and how many guesses are made may depend on how busy the machine is.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>

#include "runtime/draft.h"
#include "runtime/state_file.h"
#include "serve/choice.h"
#include "serve/prompt_cache.h"

namespace retort::serve {

struct SchedulerOptions {
  int parallel = 16;           // slots: sequences that run at the same time
  int queue = 1024;            // requests that may wait for a slot
  int64_t prefill_rows = 128;
  int64_t context = 0;         // tokens of a prompt and its continuation together; 0: no limit
  int64_t cache_bytes = 0;     // of states of prompts; 0: none are kept
  std::function<std::unique_ptr<Draft>()> new_draft = {};  // who guesses for one choice; null: nobody
  int64_t most_guesses = 4;    // in a pass, per choice
  int64_t judged_rows = 8;     // with more rows than these a pass costs more than guesses save: busy machines guess less, then nothing
  std::function<void(const std::string&)> warn = {};       // of a cache that holds nothing; must not wait
};

// Since the start, and at this moment.
struct SchedulerCounts {
  int64_t prompt_tokens = 0, cached_tokens = 0, made_tokens = 0;
  double prompt_seconds = 0, made_seconds = 0;  // of the engine; a pass is shared out by its rows
  int64_t passes = 0, decoding_rows = 0;        // passes that had a decoding row, and choices that decoded in them
  int64_t looked_up_tokens = 0;                 // of prompts that might have been in the cache
  int64_t drafts = 0, drafted = 0, drafts_accepted = 0;  // times that somebody guessed, guesses, and those that were right
  PrefixCache::Stats cache;
  int64_t finished = 0, cancelled = 0, refused = 0;  // requests
  int running = 0, waiting = 0;                 // choices in slots, requests without one
};

struct SlotInfo {
  int id = 0;
  bool busy = false;
  int64_t tokens = 0, state_bytes = 0;  // consumed; of the running or of the kept state
};

enum class Refusal { kNone, kFull, kStopping };

class Scheduler {
 public:
  struct Job {
    GenerationRequest request;
    GenerationSink sink;
  };
  struct Tickets {
    Refusal refusal = Refusal::kNone;
    std::vector<uint64_t> ids;  // one per job, unless refused
  };

  Scheduler(std::shared_ptr<const Model> model, ThreadPool& pool, EngineOptions engine, Tokenizer tokenizer, SchedulerOptions options);
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  const SchedulerOptions& options() const { return options_; }
  const Model& model() const { return model_; }
  // An empty prompt, a token outside the vocabulary, a prompt longer than the context, a slot that there is not.
  Status check(const GenerationRequest& request) const;
  // All of them or none; each must have passed check(). Every choice of an accepted job gets one update with `finish`, its last.
  Tickets submit(std::vector<Job> jobs);
  // Its choices end with kCancelled, soon. A job that is over is left alone.
  void cancel(uint64_t id);
  // What runs in the slot ends after this pass, whole: with kLength, as if it had made all that it may. An idle slot is left alone.
  Status end_slot(int id);

  SchedulerCounts counts() const;
  std::vector<SlotInfo> slots() const;
  // The state that a request with `slot` left behind; an error when the slot is busy or has none.
  Result<SavedState> copy_slot(int id) const;
  // Replaces it, or erases it. A state of no tokens, or of more than the context, is refused.
  Status put_slot(int id, std::optional<SavedState> state);

  // Accepts nothing more and waits for what is running, until the deadline; the rest is cancelled. To be called by one thread.
  void stop(Clock::time_point deadline);

 private:
  struct Group;
  struct Slot;
  struct Row;

  void run();
  void end_cancelled_and_late();
  void admit();
  void start(Slot& slot, std::shared_ptr<Group> group, int choice);
  void start_reading(Slot& slot);
  void pass();
  void collect_rows();
  void add_decoding_rows(Slot& slot, int64_t guesses);
  void guess(Slot& slot, int64_t count);
  void continue_from_cache(Slot& slot);
  void add_prompt_rows(Slot& slot);
  void take_rows(const LogitsRows& logits);
  void take_logits(const Row& row, std::span<const float> logits);
  void count_pass(double seconds, std::span<Slot* const> busy);
  void after_pass(double seconds);
  void after_chunk(Slot& slot);
  void warn_of_cache();
  void fork(Slot& slot);
  void deliver(Slot& slot);
  static void tell(const Group& group, const GenerationUpdate& update);
  void end_running(Slot& slot, Finish reason, const std::string& message);
  void end_waiting(const std::shared_ptr<Group>& group, int first_choice, Finish reason, const std::string& message);
  void choice_over(const std::shared_ptr<Group>& group, Finish reason);
  void fail_everything(const std::string& message);
  bool nothing_to_do() const;
  Slot* free_slot(int wanted);
  bool take_next(std::shared_ptr<Group>& group, int& choice, Slot*& slot);
  Result<const Slot*> idle_slot(int id) const;
  int64_t room(const GenerationRequest& request) const;

  const SchedulerOptions options_;
  const Tokenizer tokenizer_;
  const std::vector<int> never_;  // drawn: ids that no token has
  const Model& model_;
  Engine engine_;
  PromptCache cache_;

  // The scheduler's thread alone.
  std::vector<std::string> token_bytes_;  // once somebody wants JSON
  std::vector<Row> rows_;
  std::vector<std::pair<int64_t, int64_t>> runs_;  // of rows_: those that one thread looks at, in order
  std::vector<BatchItem> items_;
  size_t turn_ = 0;  // the slot that is first to read its prompt

  // Under mutex_. A busy slot's content belongs to the scheduler's thread.
  mutable std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::deque<std::shared_ptr<Group>> queue_;
  std::deque<std::pair<std::shared_ptr<Group>, int>> forks_;  // choices of prompts that have been read
  std::unordered_map<uint64_t, std::shared_ptr<Group>> groups_;  // accepted and not over
  std::vector<SlotInfo> infos_;
  SchedulerCounts counts_;
  uint64_t last_id_ = 0, last_client_ = 0;
  bool stopping_ = false, quit_ = false;

  std::thread thread_;
};

}  // namespace retort::serve
