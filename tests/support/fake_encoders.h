// Bytes as token ids, and conversations in them: <role>content, an answer ended by 0. For tests of what reads and batches text.
#pragma once

#include "train/data.h"

namespace retort::train::fake {

constexpr int32_t kEndOfTurn = 0;

inline Result<std::vector<int32_t>> bytes_as_ids(std::string_view text) {
  std::vector<int32_t> ids;
  for (unsigned char c : text) ids.push_back(c);
  return ids;
}

inline Result<ChatTokens> chat_as_ids(const std::vector<ChatMessage>& messages) {
  ChatTokens out;
  for (size_t m = 0; m < messages.size(); ++m) {
    for (unsigned char c : cat("<", messages[m].role, ">")) out.ids.push_back(c);
    const size_t first = out.ids.size();
    for (unsigned char c : messages[m].content) out.ids.push_back(c);
    if (messages[m].role != "assistant") continue;
    out.ids.push_back(kEndOfTurn);
    if (m > 0) out.answers.emplace_back(first, out.ids.size());
  }
  return out;
}

inline Encoders encoders() { return {bytes_as_ids, chat_as_ids}; }

}  // namespace retort::train::fake
