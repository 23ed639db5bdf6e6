// Models and text through the C interface.
#include <gtest/gtest.h>

#include "support/c_models.h"

namespace retort {
namespace {

class CText : public test::CModels {
 protected:
  static std::vector<int32_t> tokenize(const ModelHandle& model, const char* text, int64_t length = -1) {
    int64_t count = -1;
    EXPECT_EQ(retort_tokenize(model.get(), text, length, RETORT_ADD_SPECIAL, nullptr, 0, &count), RETORT_OK)
        << retort_error();
    std::vector<int32_t> tokens(size_t(count) + 1, -7);
    EXPECT_EQ(retort_tokenize(model.get(), text, length, 0, tokens.data(), count, &count), RETORT_OK) << retort_error();
    EXPECT_EQ(tokens.back(), -7);
    tokens.pop_back();
    return tokens;
  }
};

TEST_F(CText, FactsOfModels) {
  const ModelHandle teacher = load(teacher_), student = load(student_);
  EXPECT_EQ(retort_model_vocabulary(teacher.get()), 260);
  EXPECT_EQ(retort_model_context_length(teacher.get()), 512);
  EXPECT_GT(retort_model_weight_bytes(teacher.get()), 10000);
  EXPECT_EQ(retort_model_state_bytes(teacher.get(), 0), 0);
  EXPECT_EQ(retort_model_state_bytes(teacher.get(), 10) % 10, 0);
  EXPECT_GT(retort_model_state_bytes(student.get(), 0), 0);
  EXPECT_STRNE(retort_model_identity(teacher.get()), retort_model_identity(student.get()));
  EXPECT_EQ(retort_model_has_tokenizer(student.get()), 1);
  EXPECT_EQ(retort_model_has_chat_template(teacher.get()), 1);
  EXPECT_EQ(retort_model_has_chat_template(student.get()), 0);
  EXPECT_EQ(retort_abi_version(), RETORT_ABI_VERSION);
  EXPECT_TRUE(std::string(retort_version()).find('.') != std::string::npos);
}

TEST_F(CText, WhatCannotBeLoadedIsOneLine) {
  retort_model* model = reinterpret_cast<retort_model*>(1);
  EXPECT_EQ(retort_model_load((folder_ / "absent\nline").c_str(), nullptr, &model), RETORT_INVALID);
  EXPECT_EQ(model, nullptr);
  EXPECT_EQ(std::string(retort_error()).find('\n'), std::string::npos);
  EXPECT_NE(std::string(retort_error()).find("absent line"), std::string::npos) << retort_error();
  std::filesystem::remove(student_ + "/tokenizer.json");
  const ModelHandle mute = load(student_);  // runs on ids
  EXPECT_EQ(retort_model_has_tokenizer(mute.get()), 0);
  EXPECT_EQ(retort_token_eos(mute.get()), -1);
  int64_t count = 0;
  EXPECT_EQ(retort_tokenize(mute.get(), "a", -1, 0, nullptr, 0, &count), RETORT_INVALID);
  EXPECT_NE(std::string(retort_error()).find("tokenizer.json"), std::string::npos) << retort_error();
}

TEST_F(CText, TextGoesToTokensAndBack) {
  const ModelHandle model = load(teacher_);
  EXPECT_EQ(tokenize(model, "caf\xc3\xa9"), (std::vector<int32_t>{'c', 'a', 'f', 0xc3, 0xa9}));
  EXPECT_EQ(tokenize(model, "a\0b", 3), (std::vector<int32_t>{'a', 0, 'b'}));
  EXPECT_EQ(tokenize(model, ""), std::vector<int32_t>());
  EXPECT_EQ(tokenize(model, nullptr, 0), std::vector<int32_t>());
  int64_t count = 0;
  int32_t tokens[2] = {-7, -7};
  EXPECT_EQ(retort_tokenize(model.get(), "abc", -1, 0, tokens, 2, &count), RETORT_TOO_SMALL);
  EXPECT_EQ(count, 3);
  EXPECT_EQ(tokens[0], -7);
  EXPECT_EQ(retort_tokenize(model.get(), "ab\xff", -1, 0, nullptr, 0, &count), RETORT_INVALID);
  EXPECT_NE(std::string(retort_error()).find("byte 2"), std::string::npos) << retort_error();
  const std::vector<int32_t> ids{'c', 'a', 'f', 0xc3, 0xa9, 259, 100000, -5};
  char text[16] = "";
  EXPECT_EQ(retort_detokenize(model.get(), ids.data(), 8, RETORT_SKIP_SPECIAL, text, 16, &count), RETORT_OK);
  EXPECT_EQ(std::string(text, size_t(count)), "caf\xc3\xa9");
}

TEST_F(CText, AStreamGivesWholeCharactersAndNoStops) {
  const ModelHandle model = load(teacher_);
  const char* stops[] = {"END"};
  retort_stream* made = nullptr;
  ASSERT_EQ(retort_stream_new(model.get(), stops, 1, &made), RETORT_OK) << retort_error();
  const StreamHandle stream(made);
  const auto push = [&](int32_t token) {
    const char* text = nullptr;
    int64_t size = -1;
    EXPECT_EQ(retort_stream_push(stream.get(), token, &text, &size), RETORT_OK);
    EXPECT_EQ(std::string(text).size(), size_t(size));
    return std::string(text);
  };
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(push('a'), "a");
    EXPECT_EQ(push(0xc3), "");
    EXPECT_EQ(push(0xa9), "\xc3\xa9");
    EXPECT_EQ(push('E'), "");
    EXPECT_EQ(push('N'), "");
    EXPECT_EQ(push('d'), "ENd");
    EXPECT_EQ(push(-1), "");
    EXPECT_EQ(push(1 << 30), "");
    for (const char c : {'E', 'N', 'D', 'x'}) EXPECT_EQ(push(c), "");
    EXPECT_EQ(retort_stream_stopped(stream.get()), 1);
    const char* text = nullptr;
    EXPECT_EQ(retort_stream_finish(stream.get(), &text, nullptr), RETORT_OK);
    EXPECT_STREQ(text, "");
    EXPECT_EQ(retort_stream_stopped(stream.get()), 0);
  }
}

TEST_F(CText, ConversationsGoThroughTheTemplate) {
  const ModelHandle model = load(teacher_), bare = load(student_);
  const retort_message messages[] = {{"system", "Be brief."}, {"user", "Hello"}};
  char text[100];
  int64_t size = 0, count = 0;
  ASSERT_EQ(retort_chat_text(model.get(), messages, 2, 1, text, sizeof text, &size), RETORT_OK) << retort_error();
  EXPECT_EQ(std::string(text, size_t(size)), "<system>Be brief.;<user>Hello;<assistant>");
  std::vector<int32_t> tokens(100);
  ASSERT_EQ(retort_chat_tokens(model.get(), messages, 2, 1, tokens.data(), 100, &count), RETORT_OK) << retort_error();
  EXPECT_EQ(count, size);
  ASSERT_EQ(retort_chat_text(model.get(), messages, 2, 0, text, sizeof text, &size), RETORT_OK);
  EXPECT_EQ(std::string(text, size_t(size)), "<system>Be brief.;<user>Hello;");
  EXPECT_EQ(retort_chat_text(model.get(), messages, 0, 1, nullptr, 0, &size), RETORT_INVALID);
  EXPECT_EQ(retort_chat_tokens(bare.get(), messages, 2, 1, nullptr, 0, &count), RETORT_INVALID);
  EXPECT_NE(std::string(retort_error()).find("no chat template"), std::string::npos) << retort_error();
  const retort_message bad[] = {{"user", "Hello"}, {"user", "\xff"}}, empty[] = {{"user", nullptr}};
  EXPECT_EQ(retort_chat_tokens(model.get(), bad, 2, 1, nullptr, 0, &count), RETORT_INVALID);
  EXPECT_STREQ(retort_error(), "messages[1].content: not valid UTF-8 at byte 0");
  EXPECT_EQ(retort_chat_tokens(model.get(), empty, 1, 1, nullptr, 0, &count), RETORT_INVALID);
  EXPECT_STREQ(retort_error(), "messages[0].content is NULL");
}

}  // namespace
}  // namespace retort
