// Many conversations at a time: every question has a slot of one decoding batch for all its turns, so that a later turn goes on from the
// state of the one before, and the next question takes the slot when the last one is done.
//
// Layer: cli. Not thread-safe: one call.
#pragma once

#include <functional>

#include "cli/judge/questions.h"
#include "cli/open_model.h"

namespace retort::cli {

struct AnsweringOptions {
  int parallel = 8;
  int64_t max_tokens = 1024;  // of an answer
  uint64_t seed = 0;          // of all; every question and turn draws with its own
  std::function<double(size_t question)> temperature;
};

struct AnsweringWork {
  int64_t prompt_tokens = 0, cached_tokens = 0, made_tokens = 0;
};

// `todo`: which questions. `done` is told each one when its last turn is there; an error of it ends the run. Ctrl-C: kInterrupted.
Status answer_questions(const OpenedModel& opened, const Tokenizer& tokenizer, const std::vector<JudgeQuestion>& questions,
                        const std::vector<size_t>& todo, const AnsweringOptions& options, AnsweringWork& work,
                        const std::function<Status(size_t question, const JudgeAnswer&)>& done);

}  // namespace retort::cli
