// Conversations as tokens: which of them are the assistant's.
//
// Layer: train, torch-free. An encoder is constant: use it from any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "base/error.h"
#include "io/chat_template.h"
#include "io/tokenizer.h"

namespace retort::train {

struct ChatTokens {
  std::vector<int32_t> ids;                        // those of encoding the whole conversation at once
  // [first, last) of every answer, in order: from the first token after the template's generation prompt, which is what a model sees
  // when it is to answer, to the first token after that which ends a generation (<|im_end|>, </s>), included. An assistant message
  // that opens the conversation answers nothing and is not among them.
  std::vector<std::pair<size_t, size_t>> answers;
};

using ChatEncoder = std::function<Result<ChatTokens>(const std::vector<ChatMessage>&)>;

// An error when the template refuses the conversation, writes its beginning otherwise once more follows, or ends no answer.
Result<ChatTokens> encode_conversation(const Tokenizer& tokenizer, const ChatTemplate& chat_template, const std::vector<ChatMessage>& messages);

// With the tokenizer's own template; without one every conversation is an error.
ChatEncoder chat_encoder(const Tokenizer& tokenizer);

}  // namespace retort::train
