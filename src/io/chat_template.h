// Conversations to prompts, by the chat template that a model brings.
//
// A user may type "<|im_end|>". Rendered text therefore says which of its bytes came from messages, and encode_chat() reads
// control tokens outside of those only; the ids are otherwise those of encoding the whole text at once.
//
// Layer: io. A ChatTemplate is constant: use it from any thread.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/jinja.h"
#include "io/tokenizer.h"

namespace retort {

struct ChatMessage {
  std::string role, content;
};

struct ChatOptions {
  bool add_generation_prompt = true;
  nlohmann::ordered_json tools;  // null: none
  nlohmann::ordered_json extra;  // more variables for the template, such as {"enable_thinking": false}
};

class ChatTemplate {
 public:
  // bos_token, eos_token, unk_token and pad_token are what the template sees under these names; empty: undefined.
  static Result<ChatTemplate> parse(const std::string& source, const std::string& bos_token = {}, const std::string& eos_token = {},
                                    const std::string& unk_token = {}, const std::string& pad_token = {});
  // The tokenizer's own template; an error when it has none.
  static Result<ChatTemplate> of(const Tokenizer& tokenizer);

  Result<jinja::Rendered> apply(const std::vector<ChatMessage>& messages, const ChatOptions& options = {}) const;
  // Messages as in the OpenAI interface: a list of objects with role, content and whatever else the template reads.
  Result<jinja::Rendered> apply(const nlohmann::ordered_json& messages, const ChatOptions& options = {}) const;

 private:
  jinja::Template template_;
  nlohmann::ordered_json tokens_;
};

Result<std::vector<int32_t>> encode_chat(const Tokenizer& tokenizer, const jinja::Rendered& prompt);

}  // namespace retort
