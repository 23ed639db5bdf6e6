#include "train/chat_data.h"

#include <algorithm>

namespace retort::train {

Result<ChatTokens> encode_conversation(const Tokenizer& tokenizer, const ChatTemplate& chat_template, const std::vector<ChatMessage>& messages) {
  ChatOptions whole_conversation;
  whole_conversation.add_generation_prompt = false;
  RETORT_TRY(const auto whole, chat_template.apply(messages, whole_conversation));
  ChatTokens out;
  RETORT_TRY(out.ids, encode_chat(tokenizer, whole));
  for (size_t m = 1; m < messages.size(); ++m) {
    if (messages[m].role != "assistant") continue;
    RETORT_TRY(const auto prompt, chat_template.apply(std::vector<ChatMessage>(messages.begin(), messages.begin() + std::ptrdiff_t(m))));
    if (whole.text.compare(0, prompt.text.size(), prompt.text) != 0) {
      return invalid("messages[", m, "]: the teacher's chat template writes what comes before this answer otherwise when the answer follows: "
                     "where it begins cannot be told");
    }
    // Tokens are merged across the seam in rare templates: the answer then begins with the token that has its first byte.
    RETORT_TRY(const auto before, encode_chat(tokenizer, prompt));
    const size_t first = size_t(std::mismatch(before.begin(), before.end(), out.ids.begin(), out.ids.end()).first - before.begin());
    const auto end = std::find_if(out.ids.begin() + std::ptrdiff_t(first), out.ids.end(), [&](int32_t id) { return tokenizer.is_eog(id); });
    if (end == out.ids.end()) return invalid("messages[", m, "]: the teacher's chat template ends this answer with no token that ends a generation");
    out.answers.emplace_back(first, size_t(end - out.ids.begin()) + 1);
  }
  return out;
}

ChatEncoder chat_encoder(const Tokenizer& tokenizer) {
  if (tokenizer.chat_template().empty()) {
    return [](const std::vector<ChatMessage>&) -> Result<ChatTokens> {
      return invalid("a conversation, but the teacher's tokenizer has no chat template to write it with; give lines with \"text\"");
    };
  }
  auto chat_template = ChatTemplate::of(tokenizer);
  return [tokenizer, chat_template = std::move(chat_template)](const std::vector<ChatMessage>& messages) -> Result<ChatTokens> {
    if (!chat_template.ok()) return chat_template.error();
    return encode_conversation(tokenizer, *chat_template, messages);
  };
}

}  // namespace retort::train
