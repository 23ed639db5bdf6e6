// Text to token ids and back, with the ids that Hugging Face's `tokenizers` gives for the same files.
//
// Layer: io. A Tokenizer is a cheap handle on constant data: copy it freely, use it from any thread.
//
//   RETORT_TRY(auto tokenizer, Tokenizer::from_json(tokenizer_json, tokenizer_config_json));
//   RETORT_TRY(auto ids, tokenizer.encode("Hello"));
//   std::string text = tokenizer.decode(ids);
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "io/tokenizer_spec.h"
#include "io/utf8.h"

namespace retort {

struct EncodeOptions {
  bool add_special = true;    // what the post-processor adds, such as a first <s>
  bool parse_special = true;  // "<|im_end|>" in the text is the control token; false: it is those ten characters
  std::span<const std::pair<size_t, size_t>> untrusted;  // byte ranges, in order, where parse_special does not hold
};

class Tokenizer {
 public:
  static Result<Tokenizer> from_spec(TokenizerSpec spec);
  // Texts of the two files; the second may be empty.
  static Result<Tokenizer> from_json(const std::string& tokenizer_json, const std::string& config_json);
  static Result<Tokenizer> from_gguf(GgufVocabulary vocabulary);

  // Invalid UTF-8 is an error that names the byte offset.
  Result<std::vector<int32_t>> encode(std::string_view text, EncodeOptions options = {}) const;
  // Invalid UTF-8 is read as U+FFFD.
  Result<std::vector<int32_t>> encode_lossy(std::string_view text, EncodeOptions options = {}) const;

  // Always valid UTF-8. Ids outside the vocabulary are skipped.
  std::string decode(std::span<const int32_t> ids, bool skip_special = false) const;
  // The bytes an id contributes to running text; may be a part of a character. Feed them to a TextStream.
  std::string token_bytes(int32_t id) const;
  // As spelled in the vocabulary; empty when there is no such id.
  const std::string& token_text(int32_t id) const;
  // Id of a token spelled so, or -1.
  int32_t find(std::string_view token) const;

  size_t size() const;  // one more than the largest id
  // Ids below `rows`, those of a model's head, that no token has: rows that pad it to a round number, and gaps.
  std::vector<int32_t> ids_without_token(int rows) const;
  int32_t bos_id() const;  // -1: none
  int32_t eos_id() const;
  int32_t pad_id() const;
  int32_t unk_id() const;
  // Ids that end a generation: eos and the end-of-turn tokens of known chat formats.
  const std::vector<int32_t>& eog_ids() const;
  bool is_eog(int32_t id) const;
  bool is_special(int32_t id) const;
  const std::string& chat_template() const;  // empty: none
  const TokenizerSpec& spec() const;
  // Equal for tokenizers with the same ids for the same texts (same vocabulary, merges, components).
  uint64_t fingerprint() const;

  // tokenizer.json and tokenizer_config.json that give the same ids elsewhere.
  TokenizerFiles to_json() const { return write_tokenizer_json(spec()); }

 private:
  struct Impl;
  explicit Tokenizer(std::shared_ptr<const Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<const Impl> impl_;
};

}  // namespace retort
