// Many conversations at a time: every one has a slot of one decoding batch for all its turns, so that a later turn goes on from the
// state of the one before, and the next conversation takes the slot when the last one is done.
//
// Layer: cli. Not thread-safe: one call.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cli/open_model.h"
#include "io/chat_template.h"

namespace retort::cli {

// What is said before every answer: the messages from the answer before it on. The answers themselves are not there.
using Conversation = std::vector<std::vector<ChatMessage>>;

struct Answer {
  std::vector<std::string> turns;
  double time = 0;     // seconds since 1970
  bool whole = true;   // the model ended the last turn; false: `max_tokens` did
};

struct AnsweringOptions {
  int parallel = 8;
  int64_t max_tokens = 1024;  // of a turn
  uint64_t seed = 0;          // of all; every conversation and turn draws with its own
  bool strip = false;         // white space around an answer goes
  int64_t cache_bytes = 0;    // of states of prompts, for conversations that begin alike
  std::function<SamplingOptions(size_t conversation)> sampling;
};

struct AnsweringWork {
  int64_t prompt_tokens = 0, cached_tokens = 0, made_tokens = 0;
};

// `todo`: which conversations. `done` is told each one when its last turn is there; an error of it ends the run. Ctrl-C: kInterrupted.
// What is answered depends on the model, the conversation, its place in the list and the options but for `parallel` and `cache_bytes`.
Status answer_all(const OpenedModel& opened, const Tokenizer& tokenizer, const std::vector<Conversation>& conversations,
                  const std::vector<size_t>& todo, const AnsweringOptions& options, AnsweringWork& work,
                  const std::function<Status(size_t conversation, const Answer&)>& done);

}  // namespace retort::cli
