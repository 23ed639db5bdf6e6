// UTF-8: validation, decoding, repair, and text that arrives a few bytes at a time.
//
// Layer: io. Functions are thread-safe; a TextStream belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace retort::utf8 {

constexpr size_t kValid = size_t(-1);

// Offset of the first byte that is not part of well-formed UTF-8 (no surrogates, no overlong forms), or kValid.
size_t first_invalid(std::string_view text);
inline bool is_valid(std::string_view text) { return first_invalid(text) == kValid; }

// Every maximal ill-formed part becomes one U+FFFD.
std::string repair(std::string_view text);

void append(std::string& out, char32_t c);
size_t count(std::string_view text);

// The code point at `pos`, which moves past it. The text must be valid UTF-8 and pos inside it.
inline char32_t next(std::string_view text, size_t& pos) {
  const auto byte = [&](size_t i) { return char32_t(uint8_t(text[i])); };
  const char32_t a = byte(pos);
  if (a < 0x80) return pos += 1, a;
  if (a < 0xe0) return pos += 2, (a & 31) << 6 | (byte(pos - 1) & 63);
  if (a < 0xf0) return pos += 3, (a & 15) << 12 | (byte(pos - 2) & 63) << 6 | (byte(pos - 1) & 63);
  return pos += 4, (a & 7) << 18 | (byte(pos - 3) & 63) << 12 | (byte(pos - 2) & 63) << 6 | (byte(pos - 1) & 63);
}

// Length of the longest tail that could still become a character: 0 to 3 bytes.
size_t incomplete_tail(std::string_view text);

}  // namespace retort::utf8

namespace retort {

// Bytes of tokens in, whole characters out. Text that may be the start of a stop string is held back too.
//
//   TextStream stream({"</s>"});
//   out << stream.push(tokenizer.token_bytes(id));
//   if (stream.stopped()) ...
//   out << stream.finish();
class TextStream {
 public:
  TextStream() = default;
  explicit TextStream(std::vector<std::string> stops);

  // Text that is now certain. Empty once a stop string was seen.
  std::string push(std::string_view bytes);
  // What was held back; an incomplete character becomes U+FFFD.
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace retort
