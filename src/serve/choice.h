// One continuation of a prompt while it is made: draws tokens, turns them into text, watches for its end.
//
// Layer: serve. Belongs to one thread at a time.
#pragma once

#include <deque>
#include <span>

#include "io/tokenizer.h"
#include "serve/generation.h"
#include "serve/json_guard.h"

namespace retort::serve {

// The log-probability of `token` under the logits, and the `top` likeliest (fewer in a small vocabulary).
ScoredToken score(std::span<const float> logits, int token, int top);

// The bytes of every token, by id; empty for control tokens and for ids without text.
std::vector<std::string> bytes_of_tokens(const Tokenizer& tokenizer);

class Choice {
 public:
  // `room`: tokens that may follow the prompt. `token_bytes` is only looked at when the request wants JSON.
  Choice(const GenerationRequest& request, int index, int64_t room, const Tokenizer& tokenizer, const std::vector<std::string>& token_bytes);

  int index() const { return index_; }
  int64_t made() const { return made_; }
  int64_t left() const { return most_ - made_; }  // that may still be made
  // Prompt and what was made.
  const std::vector<int>& tokens() const { return tokens_; }

  // The next token from the logits after the last one. Adds text and tokens to `update`, and sets finish when this was the last.
  void draw(std::span<const float> logits, GenerationUpdate& update);
  // Ends the text before its time: what was held back is text too.
  void end(Finish reason, GenerationUpdate& update);

 private:
  struct Held {
    ScoredToken token;
    size_t begin, bytes;  // in the bytes of the text so far
  };
  bool mask(std::span<const float> logits);
  void add_text(const std::string& text, GenerationUpdate& update);
  void release(GenerationUpdate& update);

  int index_, top_logprobs_;
  int64_t most_, made_ = 0;
  bool ignore_eos_, json_;
  const Tokenizer* tokenizer_;
  const std::vector<std::string>* token_bytes_;
  std::vector<int> tokens_;
  Sampler sampler_;
  TextStream text_;
  JsonGuard guard_;
  std::vector<float> masked_;
  std::string uncertain_;  // bytes that the stream holds back
  size_t bytes_ = 0;       // of all tokens, those held back too
  std::deque<Held> held_;
};

}  // namespace retort::serve
