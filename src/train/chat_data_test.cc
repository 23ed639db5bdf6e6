// Which tokens of a conversation are the assistant's.
#include "train/chat_data.h"

#include <algorithm>

#include <gtest/gtest.h>

#include "support/tiny_model.h"

namespace retort::train {
namespace {

Tokenizer with_template(const std::string& chat_template = {}) {
  auto config = nlohmann::ordered_json::parse(test::chat_tokenizer_config());
  if (!chat_template.empty()) config["chat_template"] = chat_template;
  auto out = Tokenizer::from_json(test::chat_tokenizer_json(), config.dump());
  EXPECT_TRUE(out.ok()) << out.error().message;
  return *out;
}

// The answers in brackets.
std::string marked(const Tokenizer& tokenizer, const std::vector<ChatMessage>& messages) {
  const auto chat = chat_encoder(tokenizer)(messages);
  if (!chat.ok()) return chat.error().message;
  std::string out;
  for (size_t i = 0; i < chat->ids.size(); ++i) {
    for (const auto& [first, last] : chat->answers) out += i == first ? "[" : "";
    out += chat->ids[i] >= 256 ? tokenizer.token_text(chat->ids[i]) : std::string(1, char(chat->ids[i]));
    for (const auto& [first, last] : chat->answers) out += i + 1 == last ? "]" : "";
  }
  return out;
}

TEST(ChatData, AnswersAreWhatFollowsTheGenerationPromptUpToTheEndOfTheTurn) {
  EXPECT_EQ(marked(with_template(), {{"system", "be"}, {"user", "q"}, {"assistant", "yes"}, {"user", "r"}, {"assistant", "no"}}),
            "<|im_start|>system\nbe<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[yes<|im_end|>]\n"
            "<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n[no<|im_end|>]\n");
}

TEST(ChatData, WhatOpensAConversationAnswersNothing) {
  EXPECT_EQ(marked(with_template(), {{"assistant", "hello"}, {"user", "q"}}), "<|im_start|>assistant\nhello<|im_end|>\n<|im_start|>user\nq<|im_end|>\n");
}

// A user's "<|im_end|>" is ten characters, and so is an assistant's.
TEST(ChatData, ControlTokensInMessagesAreText) {
  const auto chat = chat_encoder(with_template())({{"user", "a<|im_end|>"}, {"assistant", "b<|im_end|>c"}});
  ASSERT_TRUE(chat.ok()) << chat.error().message;
  EXPECT_EQ(std::count(chat->ids.begin(), chat->ids.end(), 257), 2);
  ASSERT_EQ(chat->answers.size(), 1u);
  EXPECT_EQ(chat->answers[0].second - chat->answers[0].first, 13u);
  EXPECT_EQ(chat->ids[chat->answers[0].second - 1], 257);
}

TEST(ChatData, TemplatesWithoutAGenerationPrompt) {
  const char* llama2 = "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]{% else %} {{ m['content'] }} <|im_end|>{% endif %}{% endfor %}";
  EXPECT_EQ(marked(with_template(llama2), {{"user", "q"}, {"assistant", "a"}, {"user", "r"}, {"assistant", "b"}}),
            "[INST] q [/INST][ a <|im_end|>][INST] r [/INST][ b <|im_end|>]");
}

TEST(ChatData, ErrorsSayWhichMessage) {
  const char* endless = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}";
  EXPECT_NE(marked(with_template(endless), {{"user", "q"}, {"assistant", "a"}}).find("messages[1]: the teacher's chat template ends this answer"), std::string::npos);
  const char* counting = "{{ messages | length }}{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}";
  EXPECT_NE(marked(with_template(counting), {{"user", "q"}, {"assistant", "a"}}).find("where it begins cannot be told"), std::string::npos);
  const char* strict = "{{ raise_exception('roles must alternate') }}";
  EXPECT_NE(marked(with_template(strict), {{"user", "q"}, {"assistant", "a"}}).find("roles must alternate"), std::string::npos);
  const auto none = Tokenizer::from_json(test::chat_tokenizer_json(), "{}");
  ASSERT_TRUE(none.ok());
  EXPECT_NE(marked(*none, {{"user", "q"}, {"assistant", "a"}}).find("has no chat template"), std::string::npos);
}

}  // namespace
}  // namespace retort::train
