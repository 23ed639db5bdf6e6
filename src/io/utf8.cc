#include "io/utf8.h"

#include <algorithm>
#include <cstring>

namespace retort::utf8 {
namespace {

// Reads one character at text[pos]. Returns its length when it is well formed. Otherwise 0, and `bad` is the length of
// the maximal ill-formed part; `truncated` tells that the text ended inside a character that was fine so far.
size_t scan(std::string_view text, size_t pos, size_t& bad, bool& truncated) {
  const auto byte = [&](size_t i) { return uint8_t(text[i]); };
  const uint8_t lead = byte(pos);
  bad = 1;
  truncated = false;
  if (lead < 0x80) return 1;
  if (lead < 0xc2 || lead > 0xf4) return 0;
  const size_t length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  const uint8_t low = lead == 0xe0 ? 0xa0 : lead == 0xf0 ? 0x90 : 0x80;   // no overlong forms
  const uint8_t high = lead == 0xed ? 0x9f : lead == 0xf4 ? 0x8f : 0xbf;  // no surrogates, nothing past U+10FFFF
  for (size_t i = 1; i < length; ++i) {
    if (pos + i >= text.size()) {
      bad = i;
      truncated = true;
      return 0;
    }
    const uint8_t b = byte(pos + i);
    if (b < (i == 1 ? low : 0x80) || b > (i == 1 ? high : 0xbf)) {
      bad = i;
      return 0;
    }
  }
  return length;
}

}  // namespace

size_t first_invalid(std::string_view text) {
  size_t pos = 0, bad = 0;
  bool truncated = false;
  while (pos < text.size()) {
    uint64_t word = 0;
    while (pos + 8 <= text.size()) {
      std::memcpy(&word, text.data() + pos, 8);
      if (word & 0x8080808080808080ull) break;
      pos += 8;
    }
    if (pos >= text.size()) break;
    const size_t length = scan(text, pos, bad, truncated);
    if (length == 0) return pos;
    pos += length;
  }
  return kValid;
}

std::string repair(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  size_t pos = 0, bad = 0;
  bool truncated = false;
  while (pos < text.size()) {
    const size_t length = scan(text, pos, bad, truncated);
    if (length != 0) {
      out.append(text.substr(pos, length));
      pos += length;
    } else {
      out += "\xef\xbf\xbd";
      pos += bad;
    }
  }
  return out;
}

void append(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += char(c);
  } else if (c < 0x800) {
    out += char(0xc0 | c >> 6);
    out += char(0x80 | (c & 63));
  } else if (c < 0x10000) {
    out += char(0xe0 | c >> 12);
    out += char(0x80 | (c >> 6 & 63));
    out += char(0x80 | (c & 63));
  } else {
    out += char(0xf0 | c >> 18);
    out += char(0x80 | (c >> 12 & 63));
    out += char(0x80 | (c >> 6 & 63));
    out += char(0x80 | (c & 63));
  }
}

size_t count(std::string_view text) {
  return size_t(std::count_if(text.begin(), text.end(), [](char b) { return (uint8_t(b) & 0xc0) != 0x80; }));
}

size_t incomplete_tail(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const uint8_t b = uint8_t(text[text.size() - back]);
    if ((b & 0xc0) == 0x80) continue;
    size_t bad = 0;
    bool truncated = false;
    const size_t length = scan(text, text.size() - back, bad, truncated);
    return length == 0 && truncated ? back : 0;
  }
  return 0;
}

}  // namespace retort::utf8

namespace retort {

TextStream::TextStream(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase(stops_, std::string());
}

std::string TextStream::push(std::string_view bytes) {
  if (stopped_) return {};
  held_ += bytes;
  size_t stop = std::string::npos;
  for (const auto& s : stops_) stop = std::min(stop, held_.find(s));
  if (stop != std::string::npos) {
    stopped_ = true;
    std::string out = utf8::repair(std::string_view(held_).substr(0, stop));
    held_.clear();
    return out;
  }
  size_t keep = utf8::incomplete_tail(held_);
  for (const auto& s : stops_) {
    for (size_t n = std::min(s.size() - 1, held_.size()); n > keep; --n) {
      if (std::string_view(held_).substr(held_.size() - n) == std::string_view(s).substr(0, n)) keep = n;
    }
  }
  // A held-back tail must not begin inside a character.
  size_t end = held_.size() - keep;
  end -= utf8::incomplete_tail(std::string_view(held_).substr(0, end));
  std::string out = utf8::repair(std::string_view(held_).substr(0, end));
  held_.erase(0, end);
  return out;
}

std::string TextStream::finish() {
  std::string out = utf8::repair(held_);
  held_.clear();
  return out;
}

}  // namespace retort
