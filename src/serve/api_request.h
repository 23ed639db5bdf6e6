// What clients may say in the body of /v1/completions and /v1/chat/completions: JSON read into values, and nothing done yet.
//
// Layer: serve. Thread-safe: pure functions. Nothing in a body is trusted: a wrong type, a value out of range, or something that this server
// cannot do is an error that names the field. Fields that are not known are passed over, as OpenAI's servers do.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "runtime/sampling.h"

namespace retort::serve {

// What a request that says nothing gets.
struct ApiDefaults {
  SamplingOptions sampling;
  int64_t chat_max_tokens = 4096;
  int most_choices = 128;          // n times the number of prompts
  size_t most_prompts = 256;
};

// What both endpoints share.
struct ApiRequest {
  std::string model;               // as given: it is echoed
  SamplingOptions sampling;
  std::optional<uint64_t> seed;
  int choices = 1;
  int64_t max_tokens = 16;
  std::vector<std::string> stops;
  bool ignore_eos = false;
  bool json = false;               // response_format json_object
  int top_logprobs = -1;           // -1: none
  bool stream = false, include_usage = false;
  int slot = -1;
  bool cache_prompt = true;
};

using Prompt = std::variant<std::string, std::vector<int>>;

struct CompletionRequest : ApiRequest {
  std::vector<Prompt> prompts;
  bool echo = false;
};

struct ChatRequest : ApiRequest {
  nlohmann::ordered_json messages;  // contents are text
  nlohmann::ordered_json tools;     // null: none
  nlohmann::ordered_json template_fields;  // chat_template_kwargs
  bool add_generation_prompt = true;
};

Result<CompletionRequest> parse_completion_request(std::string_view body, const ApiDefaults& defaults);
Result<ChatRequest> parse_chat_request(std::string_view body, const ApiDefaults& defaults);

struct TokenizeRequest {
  std::string text;
  bool add_special = false, parse_special = true, with_pieces = false;
};
// {"content" or "prompt", "add_special" or "add_special_tokens", "parse_special", "with_pieces"}
Result<TokenizeRequest> parse_tokenize_request(std::string_view body);
// {"tokens"}
Result<std::vector<int>> parse_detokenize_request(std::string_view body);
// {"filename"}: a name without folders.
Result<std::string> parse_slot_file_request(std::string_view body);

}  // namespace retort::serve
