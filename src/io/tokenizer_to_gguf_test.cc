#include "io/tokenizer_to_gguf.h"

#include <gtest/gtest.h>

#include "io/tokenizer_files.h"
#include "support/tiny_model.h"
#include "test_files.h"

namespace retort {
namespace {

constexpr const char* kTexts[] = {"The river has 12 stones.", "a\n\n  b\tc", "it's 1234567 \xc3\xa9\xe6\xbc\xa2\xf0\x9f\x98\x80", "<|im_start|>user\nHi<|im_end|>"};

TEST(TokenizerToGguf, BytesComeBackAlike) {
  const auto tokenizer = Tokenizer::from_json(test::byte_tokenizer_json(), "");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  const auto v = gguf_vocabulary(*tokenizer, 260);
  ASSERT_TRUE(v.ok()) << v.error().message;
  EXPECT_EQ(v->pre, "gpt-2");
  EXPECT_EQ(v->tokens.size(), 260u);
  EXPECT_EQ(v->tokens[258], "[PAD258]");
  EXPECT_EQ(v->token_types[258], 5);
  EXPECT_FALSE(*v->add_bos);
  const auto back = Tokenizer::from_gguf(*v);
  ASSERT_TRUE(back.ok()) << back.error().message;
  for (const char* text : kTexts) EXPECT_EQ(*back->encode(text), *tokenizer->encode(text)) << text;
  EXPECT_EQ(back->size(), tokenizer->size()) << "what pads the embedding is no token";
  EXPECT_EQ(back->ids_without_token(260), (std::vector<int32_t>{256, 257, 258, 259}));
}

TEST(TokenizerToGguf, AStrangePreTokenizerIsRefused) {
  auto json = nlohmann::json::parse(test::byte_tokenizer_json());
  json["pre_tokenizer"] = {{"type", "Digits"}, {"individual_digits", true}};
  const auto tokenizer = Tokenizer::from_json(json.dump(), "");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  const auto v = gguf_vocabulary(*tokenizer, 260);
  ASSERT_FALSE(v.ok());
  EXPECT_NE(v.error().message.find("has no name in GGUF"), std::string::npos) << v.error().message;
}

TEST(TokenizerToGguf, SmolLm2ComesBackAlike) {
  if (!std::filesystem::exists(test::teacher_path())) GTEST_SKIP() << test::teacher_path() << " is absent";
  const auto tokenizer = load_tokenizer(test::teacher_path());
  ASSERT_TRUE(tokenizer.ok());
  const auto v = gguf_vocabulary(*tokenizer, 49152);
  ASSERT_TRUE(v.ok()) << v.error().message;
  EXPECT_EQ(v->pre, "smollm");
  EXPECT_EQ(v->merges.size(), 48900u);
  EXPECT_EQ(v->eos, 2);
  EXPECT_FALSE(v->chat_template.empty());
  const auto back = Tokenizer::from_gguf(*v);
  ASSERT_TRUE(back.ok()) << back.error().message;
  EXPECT_EQ(back->fingerprint(), tokenizer->fingerprint());
  for (const char* text : kTexts) EXPECT_EQ(*back->encode(text), *tokenizer->encode(text)) << text;
}

// SentencePiece's scores are made again from the order of the merges.
TEST(TokenizerToGguf, SentencePieceJoinsInTheSameOrder) {
  GgufVocabulary v;
  v.model = "llama";
  v.tokens = {"<unk>", "<s>", "</s>", "\xe2\x96\x81", "a", "b", "c", "ab", "bc", "abc", "\xe2\x96\x81""a", "<0x0A>"};
  v.token_types = {2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 6};
  v.scores = {0, 0, 0, -20, -21, -22, -23, -3, -2, -4, -5, 0};
  v.bos = 1, v.eos = 2, v.unk = 0;
  const auto tokenizer = Tokenizer::from_gguf(v);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  const auto written = gguf_vocabulary(*tokenizer, 12);
  ASSERT_TRUE(written.ok()) << written.error().message;
  EXPECT_EQ(written->token_types, v.token_types);
  EXPECT_TRUE(*written->add_bos);
  EXPECT_GT(written->scores[8], written->scores[7]);
  const auto back = Tokenizer::from_gguf(*written);
  ASSERT_TRUE(back.ok()) << back.error().message;
  for (const char* text : {"abc", "a b", "cab\nabcbc", "bcabab"}) EXPECT_EQ(*back->encode(text), *tokenizer->encode(text)) << text;
}

}  // namespace
}  // namespace retort
