// Prompts to be answered: lines of a .jsonl with "messages" or "prompt", or lines of a .txt; also .gz and .zst.
//
// Layer: cli. Pure functions.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "io/chat_template.h"

namespace retort::cli {

struct SynthesisPrompt {
  std::vector<ChatMessage> messages;
  std::string where;  // "prompts.jsonl:12"
};

// "messages": what comes before the last assistant's message, all of it when there is none; it wins over "prompt", which is a user's only
// message, as is a line of a .txt. Empty lines are no prompts. `name` says what the content is ("a.jsonl", "a.txt.gz").
// Errors name file and line.
Result<std::vector<SynthesisPrompt>> read_prompts(std::string content, const std::string& name);

// The prompts that one of `count` jobs answers: those whose place modulo `count` is `index`.
struct Shard {
  int index = 0, count = 1;
};
// "2/8"; empty: the whole.
Result<Shard> parse_shard(const std::string& text);

}  // namespace retort::cli
