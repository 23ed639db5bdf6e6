// What is asked of the scheduler and what it tells while it works: values only.
//
// Layer: serve. Values; a GenerationSink is called on the scheduler's thread and must not wait.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/timing.h"
#include "runtime/sampling.h"

namespace retort::serve {

struct GenerationRequest {
  std::vector<int> prompt;             // at least one token
  SamplingOptions sampling;
  uint64_t seed = 0;                   // choice i draws with seed + i
  int choices = 1;                     // continuations of the one prompt, which is computed once
  int64_t max_tokens = 16;             // per choice; 0: only the prompt
  std::vector<std::string> stops;      // texts that end a choice and are not part of it
  bool ignore_eos = false;
  bool json = false;                   // the answer is one JSON object, and ends with it
  int top_logprobs = -1;               // -1: no log-probabilities; otherwise how many alternatives come with each token
  bool prompt_logprobs = false;        // those of the prompt's tokens too
  int slot = -1;                       // which slot's saved state may be continued, and keeps the state afterwards; -1: a fresh one
  bool cache = true;                   // states of earlier prompts may be continued, and this prompt's kept
  std::optional<Clock::time_point> deadline;
};

// Of the raw distribution: temperature 1, nothing cut off. Natural logarithm, finite.
struct ScoredToken {
  int token = 0;
  bool scored = false;                 // false: the first token of a prompt, which nothing predicts, or nobody asked
  double logprob = 0;
  std::vector<std::pair<int, double>> top;  // likeliest first
};

enum class Finish {
  kStop,       // the model ended the text, or a stop text came
  kLength,     // max_tokens, the context is full, or the deadline passed while text was being made
  kLate,       // the deadline passed before the first token
  kCancelled,
  kFailed,     // the machine refused (memory): see the message
};

struct GenerationStats {
  int64_t prompt_tokens = 0, cached_tokens = 0, made_tokens = 0;  // cached: of the prompt, not computed again
  int64_t drafted = 0, drafts_accepted = 0;                       // guesses of tokens, and those that were right
  double prompt_seconds = 0, made_seconds = 0;                    // wall time from start to first token, and from there on
};

// What one pass added to a choice.
struct GenerationUpdate {
  int choice = 0;
  std::string text;                    // whole characters that no stop text can take back
  std::vector<ScoredToken> prompt;     // choice 0 only
  std::vector<ScoredToken> tokens;     // those whose text has begun to be certain; never those of a stop text
  std::optional<Finish> finish;        // set in a choice's last update
  std::string message;                 // of kFailed
  GenerationStats stats;               // with finish
};
using GenerationSink = std::function<void(const GenerationUpdate&)>;

}  // namespace retort::serve
