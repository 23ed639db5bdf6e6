#include "io/tokenizer.h"

#include <gtest/gtest.h>

namespace retort {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

// Bytes a..d, space; merges make "ab" and " ab".
json byte_level() {
  return json::parse(R"({
    "added_tokens": [{"id": 7, "content": "<s>", "special": true, "normalized": false},
                     {"id": 8, "content": "<e>", "special": true, "normalized": false}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                       "special_tokens": {"<s>": {"id": "<s>", "ids": [7], "tokens": ["<s>"]}}},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "\u0120": 2, "ab": 3, "\u0120ab": 4, "\u00c3": 5, "\u00a9": 6},
              "merges": ["a b", ["\u0120", "ab"]]}})");
}

Result<Tokenizer> make(const json& file, const std::string& config = "") { return Tokenizer::from_json(file.dump(), config); }

Ids encode(const Tokenizer& t, std::string_view text, EncodeOptions options = {}) {
  const auto ids = t.encode(text, options);
  EXPECT_TRUE(ids.ok()) << (ids.ok() ? "" : ids.error().message);
  return ids.ok() ? *ids : Ids{-1};
}

TEST(Tokenizer, EncodesAndDecodes) {
  const auto t = make(byte_level(), R"({"bos_token": "<s>", "eos_token": {"content": "<e>"}, "chat_template": "T"})");
  ASSERT_TRUE(t.ok()) << t.error().message;
  EXPECT_EQ(encode(*t, "ab ab"), (Ids{7, 3, 4}));
  EXPECT_EQ(encode(*t, "ab<e>é"), (Ids{7, 3, 8, 5, 6}));
  EXPECT_EQ(encode(*t, "ab", {.add_special = false}), (Ids{3}));
  EXPECT_EQ(t->decode(Ids{7, 3, 4, 5, 6}), "<s>ab abé");
  EXPECT_EQ(t->decode(Ids{7, 3, 4}, true), "ab ab");
  EXPECT_EQ(t->decode(Ids{3, 5}), "ab\xef\xbf\xbd");
  EXPECT_EQ(t->decode(Ids{-5, 3, 4000}), "ab");
  EXPECT_EQ(t->token_bytes(5), "\xc3");
  EXPECT_EQ(t->token_text(4), "\xc4\xa0" "ab");
  EXPECT_EQ(t->size(), 9u);
  EXPECT_EQ(t->bos_id(), 7);
  EXPECT_EQ(t->eos_id(), 8);
  EXPECT_TRUE(t->is_eog(8));
  EXPECT_TRUE(t->is_special(7));
  EXPECT_FALSE(t->is_special(3));
  EXPECT_EQ(t->chat_template(), "T");
}

TEST(Tokenizer, ControlTokensInUntrustedTextStayText) {
  const auto t = make(byte_level());
  ASSERT_TRUE(t.ok());
  EXPECT_EQ(encode(*t, "<e>ab", {.add_special = false, .parse_special = false}), (Ids{3})) << "bytes without a token vanish";
  const std::vector<std::pair<size_t, size_t>> user = {{3, 6}};
  EXPECT_EQ(encode(*t, "<e><e><e>", {.add_special = false, .untrusted = user}), (Ids{8, 8}));
  const std::vector<std::pair<size_t, size_t>> part = {{1, 2}};
  EXPECT_EQ(encode(*t, "<e>ab", {.add_special = false, .untrusted = part}), (Ids{3}));
}

TEST(Tokenizer, InvalidUtf8NamesTheByte) {
  const auto t = make(byte_level());
  ASSERT_TRUE(t.ok());
  const auto ids = t->encode("ab\xff");
  ASSERT_FALSE(ids.ok());
  EXPECT_NE(ids.error().message.find("byte 2"), std::string::npos) << ids.error().message;
  EXPECT_TRUE(t->encode_lossy("ab\xff").ok());
}

TEST(Tokenizer, WhatItWritesReadsBackTheSame) {
  const auto t = make(byte_level(), R"({"bos_token": "<s>", "chat_template": "x"})");
  ASSERT_TRUE(t.ok());
  const auto files = t->to_json();
  const auto again = Tokenizer::from_json(files.tokenizer_json, files.tokenizer_config_json);
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_EQ(encode(*again, "ab <e> ab"), encode(*t, "ab <e> ab"));
  EXPECT_EQ(again->bos_id(), 7);
  EXPECT_EQ(again->chat_template(), "x");
  EXPECT_EQ(again->fingerprint(), t->fingerprint());
}

TEST(Tokenizer, ErrorsNameTheComponent) {
  const std::tuple<const char*, json, const char*> cases[] = {
      {"/pre_tokenizer", {{"type", "UnicodeScripts"}}, "UnicodeScripts"},
      {"/normalizer", {{"type", "Precompiled"}}, "Precompiled"},
      {"/decoder", {{"type", "WordPiece"}}, "WordPiece"},
      {"/post_processor", {{"type", "Other"}}, "Other"},
      {"/model/type", "Unigram", "Unigram"},
      {"/model/vocab", json::array(), "model.vocab"},
      {"/model/vocab/a", 1, "same id"},
      {"/model/vocab/a", -1, "model.vocab['a']"},
      {"/model/vocab/a", 4000000000u, "model.vocab['a']"},
      {"/model/merges", json::array({"a"}), "model.merges[0]"},
      {"/model/merges", json::array({"a z"}), "model.merges[0]"},
      {"/model/unk_token", "?", "unk_token"},
      {"/model/end_of_word_suffix", "</w>", "end_of_word_suffix"},
      {"/model/dropout", 0.1, "dropout"},
      {"/added_tokens/0/id", "7", "added_tokens[0].id"},
      {"/added_tokens/0/id", 3, "added_tokens"},
      {"/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "("}}}, {"behavior", "Isolated"}}, "regular expression"},
      {"/pre_tokenizer", {{"type", "Split"}, {"pattern", {{"Regex", "[a&&b]"}}}, {"behavior", "Isolated"}}, "not supported"},
      {"/post_processor/special_tokens/<s>/ids", json::array({900}), "an id below"},
      {"/post_processor/single", json::array(), "text would be lost"},
  };
  for (const auto& [path, value, part] : cases) {
    json file = byte_level();
    file[json::json_pointer(path)] = value;
    const auto t = make(file);
    ASSERT_FALSE(t.ok()) << path << " = " << value;
    EXPECT_EQ(t.error().code, ErrorCode::kInvalidInput);
    EXPECT_NE(t.error().message.find(part), std::string::npos) << path << ": " << t.error().message;
  }
  EXPECT_FALSE(Tokenizer::from_json("", "").ok());
  EXPECT_FALSE(Tokenizer::from_json("[]", "").ok());
  EXPECT_FALSE(make(byte_level(), "[").ok());
  json deep = {{"type", "NFC"}};
  for (int i = 0; i < 100; ++i) deep = {{"type", "Sequence"}, {"normalizers", json::array({deep})}};
  json file = byte_level();
  file["normalizer"] = deep;
  EXPECT_FALSE(make(file).ok());
}

TEST(Tokenizer, EveryCutOfTheFileIsRefused) {
  const std::string text = byte_level().dump();
  for (size_t n = 0; n < text.size(); ++n) EXPECT_FALSE(Tokenizer::from_json(text.substr(0, n), "").ok()) << n;
}

GgufVocabulary sentencepiece() {
  GgufVocabulary v;
  v.model = "llama";
  v.tokens = {"<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "\u2581", "a", "b", "\u2581a", "ab", "\u2581ab"};
  v.token_types = {2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1};
  v.scores = {0, 0, 0, 0, 0, -9, -8, -7, -2, -1, -3};
  v.bos = 1;
  v.eos = 2;
  v.unk = 0;
  return v;
}

TEST(TokenizerGguf, SentencePieceJoinsByScore) {
  const auto t = Tokenizer::from_gguf(sentencepiece());
  ASSERT_TRUE(t.ok()) << t.error().message;
  EXPECT_EQ(encode(*t, "ab"), (Ids{1, 10}));
  EXPECT_EQ(encode(*t, "aab"), (Ids{1, 8, 9})) << "'ab' scores best, then the mark joins 'a'";
  EXPECT_EQ(encode(*t, "é"), (Ids{1, 5, 3, 4}));
  EXPECT_EQ(encode(*t, "日a"), (Ids{1, 5, 0, 6}));
  EXPECT_EQ(t->decode(Ids{1, 10, 5, 3, 4}), "<s> ab é");
  EXPECT_EQ(t->decode(Ids{10, 3}), "ab\xef\xbf\xbd");
}

TEST(TokenizerGguf, RefusesWhatDoesNotFit) {
  const auto refused = [](auto change, const char* part) {
    GgufVocabulary v = sentencepiece();
    change(v);
    const auto t = Tokenizer::from_gguf(std::move(v));
    ASSERT_FALSE(t.ok()) << part;
    EXPECT_NE(t.error().message.find(part), std::string::npos) << t.error().message;
  };
  refused([](auto& v) { v.model = "bert"; }, "tokenizer.ggml.model");
  refused([](auto& v) { v.scores.pop_back(); }, "scores");
  refused([](auto& v) { v.scores[3] = NAN; }, "scores[3]");
  refused([](auto& v) { v.token_types.pop_back(); }, "token_type");
  refused([](auto& v) { v.tokens.clear(); }, "tokens");
  refused([](auto& v) { v.tokens[6] = "\xff"; }, "tokens[6]");
  refused([](auto& v) { v.bos = 99; }, "bos_token_id");
  refused([](auto& v) { v.bos.reset(), v.add_bos = true; }, "bos_token_id");
  refused([](auto& v) { v.model = "gpt2", v.pre = "strange"; }, "'strange'");
  refused([](auto& v) { v.model = "gpt2", v.merges = {"ab"}; }, "merges[0]");
}

}  // namespace
}  // namespace retort
