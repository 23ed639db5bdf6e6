// One request's answer in OpenAI's formats, whole or as an event stream, from the scheduler's updates.
//
// Layer: serve. Thread-safe.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "io/tokenizer.h"
#include "serve/generation.h"
#include "serve/http_server.h"

namespace retort::serve {

// {"error":{"code","message","type"}}
std::string error_body(int status, const std::string& message);
void answer_error(HttpReply& reply, int status, const std::string& message);
// Invalid UTF-8 is replaced.
std::string json_text(const nlohmann::ordered_json& document);
void answer_json(HttpReply& reply, const nlohmann::ordered_json& document);

struct AnswerOptions {
  bool chat = false;
  bool stream = false, include_usage = false;
  bool logprobs = false;
  std::string id, model, fingerprint;
  std::vector<std::string> echoes;        // per prompt, what an echoing answer begins with; empty: no echo
  int choices = 1;                        // per prompt
  std::vector<int64_t> prompt_tokens;     // per prompt
};

class Answer {
 public:
  Answer(AnswerOptions options, Tokenizer tokenizer, std::shared_ptr<HttpReply> reply);

  // The request was accepted: a stream begins.
  void accepted();
  void update(size_t prompt, const GenerationUpdate& update);

 private:
  struct Part {  // of the answer: one choice
    std::string text;
    std::vector<ScoredToken> tokens;
    int64_t characters = 0;  // of tokens already told, for text_offset
    bool begun = false;
    std::optional<Finish> finish;
    GenerationStats stats;
  };
  void begin();
  void event(const nlohmann::ordered_json& document);
  nlohmann::ordered_json head(bool piece) const;
  nlohmann::ordered_json usage() const;
  nlohmann::ordered_json timings() const;
  nlohmann::ordered_json completion_logprobs(const std::vector<ScoredToken>& tokens, int64_t& characters) const;
  nlohmann::ordered_json chat_logprobs(const std::vector<ScoredToken>& tokens) const;
  std::string shown(int token) const;
  nlohmann::ordered_json logprobs_of(Part& part, const std::vector<ScoredToken>& tokens) const;
  void stream_update(size_t index, Part& part, const GenerationUpdate& update, const std::string& text, const std::vector<ScoredToken>& tokens);
  void finish_stream();
  void finish_whole();
  void fail(int status, const std::string& message);

  const AnswerOptions options_;
  const Tokenizer tokenizer_;
  const std::shared_ptr<HttpReply> reply_;
  const int64_t created_;

  std::mutex mutex_;
  std::vector<Part> parts_;
  size_t left_;
  bool begun_ = false, failed_ = false;
};

}  // namespace retort::serve
