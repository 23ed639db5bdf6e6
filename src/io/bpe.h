// Byte-pair encoding of one word: what Hugging Face's BPE model does after normalisation and pre-tokenisation.
//
// Layer: io. A Bpe is constant after construction; a WordCache belongs to one caller at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"

namespace retort {

// What stands for a space in SentencePiece's vocabularies: U+2581.
constexpr std::string_view kSpaceMark = "\xe2\x96\x81";

// Open-addressing map from strings to ids. The strings must outlive it.
class StringIds {
 public:
  static constexpr uint32_t kNone = ~0u;
  explicit StringIds(size_t expected = 0);
  // Keeps the first id of a key; false when the key was there.
  bool insert(std::string_view key, uint32_t id);
  uint32_t find(std::string_view key) const;

 private:
  struct Slot {
    std::string_view key;
    uint32_t id = kNone;
  };
  std::vector<Slot> slots_;
  size_t mask_;
};

struct BpeOptions {
  bool byte_level = false;     // words are raw bytes; tokens are spelled in the GPT-2 byte alphabet
  bool byte_fallback = false;  // unknown characters become <0xNN>
  bool fuse_unk = false;
  bool ignore_merges = false;  // a word that is a token is that token
  std::string unk_token;       // empty: unknown characters vanish, as they do in `tokenizers`
};

// Words seen before and their ids. Bounded: it empties itself when full.
class WordCache {
 public:
  WordCache();
  // True when `word` was there and its ids were appended.
  bool append(std::string_view word, std::vector<int32_t>& out) const;
  void insert(std::string_view word, const int32_t* ids, size_t count);

 private:
  struct Slot {
    uint64_t hash = 0;
    uint32_t key = 0, ids = 0;
    uint16_t key_size = 0, id_count = 0;
  };
  void clear();
  std::vector<Slot> slots_;
  std::vector<char> keys_;
  std::vector<int32_t> ids_;
  size_t used_ = 0;
};

class Bpe {
 public:
  // `tokens` by id, empty where there is none. `merges` are pairs of token texts in order of rank.
  static Result<Bpe> make(std::vector<std::string> tokens,
                          const std::vector<std::pair<std::string, std::string>>& merges, BpeOptions options);

  void encode(std::string_view word, WordCache& cache, std::vector<int32_t>& out) const;
  uint32_t find(std::string_view token) const { return by_text_.find(token); }
  const std::vector<std::string>& tokens() const { return *tokens_; }
  // No merge joins a word's end with a U+2581, so that text may be cut in front of each without changing any id.
  bool splits_before_space_mark() const { return splits_before_space_mark_; }

 private:
  struct Merge {
    uint64_t pair = ~0ull;
    uint32_t rank = 0, id = 0;
  };
  struct Symbol {
    uint32_t id;
    int32_t prev, next;
    bool dead;
  };
  struct Candidate {
    uint32_t rank, pos, id;
  };

  Bpe() : by_text_(0), by_word_(0) {}
  Status index_merges(const std::vector<std::pair<std::string, std::string>>& merges);
  const Merge* find_merge(uint32_t left, uint32_t right) const;
  void symbols_of(std::string_view word, std::vector<Symbol>& symbols) const;
  void merge_all(std::vector<Symbol>& symbols) const;
  void encode_uncached(std::string_view word, std::vector<int32_t>& out) const;

  BpeOptions options_;
  std::shared_ptr<std::vector<std::string>> tokens_;  // shared: the maps below point into it
  std::shared_ptr<std::vector<std::string>> words_;   // byte_level: the tokens as raw bytes
  StringIds by_text_;
  StringIds by_word_;
  std::vector<uint32_t> byte_ids_;  // [256]: byte_level: the token of a byte; byte_fallback: the token <0xNN>
  std::vector<Merge> merges_;
  size_t merge_mask_ = 0;
  uint32_t unk_ = StringIds::kNone;
  bool splits_before_space_mark_ = false;
};

// GPT-2's printable spelling of bytes.
std::string byte_level_encode(std::string_view bytes);
// The bytes that a token spells; false when it has a character that is not in the alphabet.
bool byte_level_decode(std::string_view text, std::string& bytes);

}  // namespace retort
