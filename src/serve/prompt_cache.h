// States of prompts that were read before: a prompt that begins like one of them is read from there, and its answer cannot tell.
//
// Layer: serve. Belongs to one thread at a time.
//
// A prompt is read in chunks, and where they end depends on its tokens alone: at multiples of `rows`, and after an end-of-message token
// when kLeastRows were read since the last end. The state at such an end is to the bit the one that reading from the start makes,
// whoever put it here. Only such states are kept: one that decoding made, or that came out of a file, is equal up to rounding at best.
#pragma once

#include <string>

#include "io/tokenizer.h"
#include "runtime/prefix_cache.h"

namespace retort::serve {

class PromptCache {
 public:
  static constexpr int64_t kLeastRows = 32;     // a pass over fewer costs nearly as much
  static constexpr int64_t kEvery = 512;        // tokens between two states at most
  static constexpr int64_t kOfMessages = 128;   // ... between two that end messages at least

  // `bytes` 0: nothing is kept, and chunks are the same.
  PromptCache(int64_t bytes, int64_t rows, const Tokenizer& tokenizer) : bytes_(bytes), rows_(rows), tokenizer_(tokenizer), states_(bytes) {}

  // Where the chunk that begins at `begin` ends: the prompt's end at last.
  int64_t chunk_end(std::span<const int> prompt, int64_t begin) const;
  // The longest known beginning, if it is longer than `longer_than`.
  std::optional<Sequence> find(std::span<const int> prompt, int64_t longer_than);
  // After the chunk [begin, end) of a prompt that was read from its start or from a state of this cache: keeps the state where it is worth
  // its bytes. `kept`: where the prompt's last state was kept or found; it moves.
  void after_chunk(std::span<const int> prompt, int64_t begin, const Sequence& state, int64_t& kept);

  // Changes with every state that comes.
  int64_t version() const { return version_; }
  const PrefixCache::Stats& stats() const { return states_.stats(); }
  // A budget that holds nothing, once: before any prompt for states like this one, or after one whose state was too large. Else empty.
  std::string warning(const StateLayout& layout);

 private:
  bool ends_message(std::span<const int> prompt, int64_t begin, int64_t end) const;

  int64_t bytes_, rows_;
  const Tokenizer& tokenizer_;
  PrefixCache states_;
  int64_t version_ = 0, largest_ = 0;
  bool warned_ = false;
};

}  // namespace retort::serve
