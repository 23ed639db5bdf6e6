// Finds added tokens in text: leftmost, then longest, as `tokenizers` does.
//
// Layer: io. Thread-safe after construction.
#pragma once

#include <array>
#include <span>
#include <string_view>
#include <vector>

#include "io/tokenizer_spec.h"

namespace retort {

class AddedTokenFinder {
 public:
  struct Part {
    std::string_view text;
    int32_t id;  // -1: plain text
  };
  void add(std::string_view pattern, const AddedToken& token);
  bool empty() const { return nodes_.size() == 1; }
  using Ranges = std::span<const std::pair<size_t, size_t>>;
  // Cuts text into plain parts and tokens. Specials stay text when parse_special is false, and where they touch one of
  // the `untrusted` byte ranges, which are in order.
  std::vector<Part> split(std::string_view text, bool parse_special, Ranges untrusted = {}) const;

 private:
  struct Node {
    std::vector<std::pair<uint8_t, uint32_t>> children;
    int32_t token = -1;  // index into tokens_
  };
  uint32_t child(uint32_t node, uint8_t byte) const;  // 0: none
  bool longest(std::string_view text, size_t pos, size_t& end, const AddedToken*& token) const;

  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::array<bool, 256> starts_{};
  std::vector<AddedToken> tokens_;
};

}  // namespace retort
