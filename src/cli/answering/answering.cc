#include "cli/answering/answering.h"

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "base/hash.h"
#include "base/interrupt.h"
#include "eval/tasks/python_text.h"
#include "serve/scheduler.h"

namespace retort::cli {
namespace {

// What a slot works on.
struct Talk {
  size_t conversation = 0;
  std::vector<ChatMessage> messages;
  Answer answer;
  std::string text;  // of the running turn
};

struct Ended {
  int slot;
  serve::Finish why;
  std::string message;
  serve::GenerationStats stats;
};

class Answering {
 public:
  Answering(const OpenedModel& opened, const Tokenizer& tokenizer, ChatTemplate chat_template, const std::vector<Conversation>& conversations,
            const AnsweringOptions& options, AnsweringWork& work)
      : tokenizer_(tokenizer), chat_template_(std::move(chat_template)), conversations_(conversations), options_(options), work_(work),
        slots_(size_t(options.parallel)),
        scheduler_(opened.model, *opened.pool, opened.engine, tokenizer, {options.parallel, options.parallel, 512, 0, options.cache_bytes}) {}

  Status run(const std::vector<size_t>& todo, const std::function<Status(size_t, const Answer&)>& done) {
    size_t next = 0;
    int running = 0;
    const auto begin = [&](int slot) -> Status {
      if (next == todo.size()) return {};
      slots_[size_t(slot)] = {todo[next++], {}, {}, {}};
      ++running;
      return ask(slot);
    };
    for (int slot = 0; slot < options_.parallel; ++slot) RETORT_RETURN_IF_ERROR(begin(slot));
    while (running > 0) {
      RETORT_TRY(const Ended ended, wait());
      RETORT_TRY(const bool whole, take(ended));
      if (!whole) {
        RETORT_RETURN_IF_ERROR(ask(ended.slot));
        continue;
      }
      --running;
      Talk& talk = slots_[size_t(ended.slot)];
      talk.answer.time = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
      RETORT_RETURN_IF_ERROR(done(talk.conversation, talk.answer));
      RETORT_RETURN_IF_ERROR(begin(ended.slot));
    }
    return {};
  }

 private:
  // The next turn of a slot's conversation.
  Status ask(int slot) {
    Talk& talk = slots_[size_t(slot)];
    const Conversation& conversation = conversations_[talk.conversation];
    const size_t turn = talk.answer.turns.size();
    talk.text.clear();
    talk.messages.insert(talk.messages.end(), conversation[turn].begin(), conversation[turn].end());
    RETORT_TRY(const jinja::Rendered prompt, chat_template_.apply(talk.messages));
    RETORT_TRY(const auto ids, encode_chat(tokenizer_, prompt));
    serve::GenerationRequest request;
    request.prompt.assign(ids.begin(), ids.end());
    request.max_tokens = options_.max_tokens;
    if (conversation.size() > 1) request.slot = slot;  // the next turn goes on from there
    request.sampling = options_.sampling(talk.conversation);
    request.seed = fnv1a_unit(turn, fnv1a_unit(talk.conversation, fnv1a_unit(options_.seed, kFnvStart)));
    RETORT_RETURN_IF_ERROR(scheduler_.check(request));
    std::vector<serve::Scheduler::Job> jobs;
    jobs.push_back({std::move(request), [this, slot](const serve::GenerationUpdate& update) { hear(slot, update); }});
    if (scheduler_.submit(std::move(jobs)).refusal != serve::Refusal::kNone) return internal_error("a conversation was refused");
    return {};
  }

  // On the scheduler's thread. A slot's text is its alone until the turn has ended.
  void hear(int slot, const serve::GenerationUpdate& update) {
    slots_[size_t(slot)].text += update.text;
    if (!update.finish) return;
    std::lock_guard lock(mutex_);
    ended_.push_back({slot, *update.finish, update.message, update.stats});
    wake_.notify_one();
  }

  Result<Ended> wait() {
    std::unique_lock lock(mutex_);
    while (ended_.empty()) {
      if (interrupted()) return interrupted_error();
      wake_.wait_for(lock, std::chrono::milliseconds(100));
    }
    const Ended out = ended_.front();
    ended_.pop_front();
    return out;
  }

  // Whether that was the conversation's last turn.
  Result<bool> take(const Ended& ended) {
    Talk& talk = slots_[size_t(ended.slot)];
    if (ended.why == serve::Finish::kFailed) return Error{ErrorCode::kIo, cat("conversation ", talk.conversation + 1, ": ", ended.message)};
    work_.prompt_tokens += ended.stats.prompt_tokens;
    work_.cached_tokens += ended.stats.cached_tokens;
    work_.made_tokens += ended.stats.made_tokens;
    talk.answer.turns.emplace_back(options_.strip ? std::string(harness::strip(talk.text)) : talk.text);
    talk.answer.whole = ended.why == serve::Finish::kStop;
    talk.messages.push_back({"assistant", talk.answer.turns.back()});
    return talk.answer.turns.size() == conversations_[talk.conversation].size();
  }

  const Tokenizer& tokenizer_;
  const ChatTemplate chat_template_;
  const std::vector<Conversation>& conversations_;
  const AnsweringOptions& options_;
  AnsweringWork& work_;
  std::vector<Talk> slots_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Ended> ended_;
  serve::Scheduler scheduler_;  // last: its thread ends before what it tells goes
};

}  // namespace

Status answer_all(const OpenedModel& opened, const Tokenizer& tokenizer, const std::vector<Conversation>& conversations,
                  const std::vector<size_t>& todo, const AnsweringOptions& options, AnsweringWork& work,
                  const std::function<Status(size_t conversation, const Answer&)>& done) {
  RETORT_TRY(ChatTemplate chat_template, ChatTemplate::of(tokenizer));
  return Answering(opened, tokenizer, std::move(chat_template), conversations, options, work).run(todo, done);
}

}  // namespace retort::cli
