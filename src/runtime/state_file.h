// A sequence's state in a file, written whole or not at all, or in memory; bound to the model that it belongs to.
//
// Layer: runtime. Thread-safe: pure functions. What is read may come from anybody: sizes, tokens and checksum are checked. The numbers
// are not: wrong ones make wrong text, and nothing else.
//
//   "RETORTST" version:u32 identity_length:u32 identity  tokens:u64 position:u64 fixed_numbers:u64 caches:u64 logits:u64
//   token ids i32 [tokens]   fixed f32 [fixed_numbers]   per cache its rows   logits f32 [logits]
//   checksum:u64 (FNV-1a over 8-byte words of all before)
//
// Version 2. Version 1 had no logits; it is read.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "runtime/sequence.h"

namespace retort {

struct SavedState {
  std::vector<int> tokens;
  Sequence sequence;
  std::vector<float> logits = {};  // after the last token; empty: not known
};

Status write_state_file(const std::string& path, const std::string& identity, std::span<const int> tokens,
                        const Sequence& sequence, std::span<const float> logits = {});
Result<SavedState> read_state_file(const std::string& path, const std::string& identity,
                                   const std::shared_ptr<const StateLayout>& layout);

// The same bytes elsewhere: state_bytes() of them, given to `sink` piece by piece.
using StateSink = std::function<Status(std::span<const std::byte>)>;
Status write_state(const StateSink& sink, const std::string& identity, std::span<const int> tokens, const Sequence& sequence,
                   std::span<const float> logits = {});
int64_t state_bytes(const std::string& identity, std::span<const int> tokens, const Sequence& sequence, std::span<const float> logits = {});
std::string state_content(const std::string& identity, std::span<const int> tokens, const Sequence& sequence, std::span<const float> logits = {});
// `name` is what messages call it.
Result<SavedState> read_state(std::span<const std::byte> bytes, const std::string& name, const std::string& identity,
                              const std::shared_ptr<const StateLayout>& layout);

}  // namespace retort
