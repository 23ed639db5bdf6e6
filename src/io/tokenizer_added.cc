#include "io/tokenizer_added.h"

#include <algorithm>

#include "io/unicode.h"
#include "io/utf8.h"

namespace retort {
namespace {

char32_t last_char(std::string_view text) {
  size_t pos = text.size() - 1;
  while (pos > 0 && (uint8_t(text[pos]) & 0xc0) == 0x80) --pos;
  return utf8::next(text, pos);
}

bool word_at_end(std::string_view text) { return !text.empty() && unicode::is_word(last_char(text)); }
bool word_at_start(std::string_view text) {
  size_t pos = 0;
  return !text.empty() && unicode::is_word(utf8::next(text, pos));
}

bool touches(AddedTokenFinder::Ranges ranges, size_t first, size_t last) {
  const auto it = std::lower_bound(ranges.begin(), ranges.end(), first, [](const auto& r, size_t at) { return r.second <= at; });
  return it != ranges.end() && it->first < last;
}

size_t spaces_at_start(std::string_view text) {
  size_t pos = 0;
  while (pos < text.size()) {
    size_t next = pos;
    if (!unicode::is_space(utf8::next(text, next))) break;
    pos = next;
  }
  return pos;
}

size_t without_spaces_at_end(std::string_view text) {
  while (!text.empty() && unicode::is_space(last_char(text))) {
    size_t n = text.size() - 1;
    while (n > 0 && (uint8_t(text[n]) & 0xc0) == 0x80) --n;
    text = text.substr(0, n);
  }
  return text.size();
}

}  // namespace

uint32_t AddedTokenFinder::child(uint32_t node, uint8_t byte) const {
  const auto& list = nodes_[node].children;
  const auto it = std::lower_bound(list.begin(), list.end(), byte, [](const auto& a, uint8_t b) { return a.first < b; });
  return it != list.end() && it->first == byte ? it->second : 0;
}

void AddedTokenFinder::add(std::string_view pattern, const AddedToken& token) {
  if (pattern.empty()) return;
  uint32_t node = 0;
  for (char c : pattern) {
    const uint8_t byte = uint8_t(c);
    uint32_t next = child(node, byte);
    if (next == 0) {
      next = uint32_t(nodes_.size());
      nodes_.emplace_back();
      auto& list = nodes_[node].children;
      list.insert(std::lower_bound(list.begin(), list.end(), std::pair<uint8_t, uint32_t>(byte, 0)), {byte, next});
    }
    node = next;
  }
  if (nodes_[node].token >= 0) return;
  starts_[uint8_t(pattern[0])] = true;
  nodes_[node].token = int32_t(tokens_.size());
  tokens_.push_back(token);
}

bool AddedTokenFinder::longest(std::string_view text, size_t pos, size_t& end, const AddedToken*& token) const {
  token = nullptr;
  uint32_t node = 0;
  for (size_t i = pos; i < text.size() && (node = child(node, uint8_t(text[i]))) != 0; ++i) {
    if (nodes_[node].token >= 0) {
      token = &tokens_[size_t(nodes_[node].token)];
      end = i + 1;
    }
  }
  return token != nullptr;
}

std::vector<AddedTokenFinder::Part> AddedTokenFinder::split(std::string_view text, bool parse_special,
                                                            Ranges untrusted) const {
  std::vector<Part> parts;
  size_t done = 0;
  for (size_t pos = 0; pos < text.size();) {
    const AddedToken* token = nullptr;
    size_t stop = 0;
    if (!starts_[uint8_t(text[pos])] || !longest(text, pos, stop, token)) {
      ++pos;
      continue;
    }
    size_t start = pos;
    pos = stop;  // a match that is turned down below still hides the ones inside it
    if (token->special && !parse_special) continue;
    if (token->special && touches(untrusted, start, stop)) continue;
    if (token->single_word && (word_at_end(text.substr(0, start)) || word_at_start(text.substr(stop)))) continue;
    if (token->lstrip) start = std::max(without_spaces_at_end(text.substr(0, start)), done);
    if (token->rstrip) stop += spaces_at_start(text.substr(stop));
    if (done < start) parts.push_back({text.substr(done, start - done), -1});
    parts.push_back({text.substr(start, stop - start), token->id});
    done = stop;
  }
  if (done < text.size()) parts.push_back({text.substr(done), -1});
  return parts;
}

}  // namespace retort
