// What a tokenizer is made of: the content of tokenizer.json and tokenizer_config.json, or of a GGUF's metadata.
//
// Layer: io. Values only.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"

namespace retort {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false, lstrip = false, rstrip = false, normalized = false, special = false;
};

struct TokenizerSpec {
  std::vector<std::string> tokens;  // of the model, by id; empty where there is none
  std::vector<std::pair<std::string, std::string>> merges;
  bool byte_fallback = false, fuse_unk = false, ignore_merges = false;
  std::string model_unk;            // the BPE model's unknown token; empty: none
  std::vector<AddedToken> added;
  nlohmann::json normalizer, pre_tokenizer, post_processor, decoder;  // as in tokenizer.json; null: none
  std::string bos, eos, unk, pad;   // texts; empty: none
  std::string chat_template;        // empty: none
  bool clean_up_spaces = false;
};

// `config` is the text of tokenizer_config.json, or empty.
Result<TokenizerSpec> parse_tokenizer_json(const std::string& text, const std::string& config);

struct TokenizerFiles {
  std::string tokenizer_json, tokenizer_config_json;
};
TokenizerFiles write_tokenizer_json(const TokenizerSpec& spec);

// The `tokenizer.*` keys of a GGUF.
struct GgufVocabulary {
  enum TokenType : int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  std::string model;                // "gpt2" or "llama"
  std::string pre;                  // "smollm", "llama-bpe", "qwen2", ...; empty: "default"
  std::vector<std::string> tokens;
  std::vector<int32_t> token_types; // as TokenType; empty: all normal
  std::vector<float> scores;        // llama
  std::vector<std::string> merges;  // gpt2: "left right"
  std::optional<int64_t> bos, eos, unk, pad;
  std::optional<bool> add_bos, add_eos, add_space_prefix;
  std::string chat_template;
};
Result<TokenizerSpec> spec_from_gguf(GgufVocabulary vocabulary);

}  // namespace retort
