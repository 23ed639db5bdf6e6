// Character classes and normal forms, as Hugging Face's tokenizers see them.
//
// Layer: io. Thread-safe: constant tables.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace retort::unicode {

enum Category : uint8_t {
  kCn, kLu, kLl, kLt, kLm, kLo, kMn, kMc, kMe, kNd, kNl, kNo, kPc, kPd, kPs, kPe, kPi, kPf,
  kPo, kSm, kSc, kSk, kSo, kZs, kZl, kZp, kCc, kCf, kCo
};

extern const uint32_t kCategoryRuns[];
extern const size_t kCategoryRunCount;
extern const uint32_t kExtraNumeric[];
extern const size_t kExtraNumericCount;
extern const uint32_t kNotNormalized[];
extern const size_t kNotNormalizedCount;

// One bit per class a pre-tokenizer asks about.
enum Flag : uint8_t {
  kLetter = 1, kNumber = 2, kSpace = 4, kNumeric = 8, kPunctuation = 16, kWord = 32,
  kOpaque = 64  // unknown to the normal forms of `tokenizers`
};

Category category(char32_t c);
uint8_t flags(char32_t c);
inline bool is_letter(char32_t c) { return flags(c) & kLetter; }
inline bool is_number(char32_t c) { return flags(c) & kNumber; }         // \p{N}
inline bool is_numeric(char32_t c) { return flags(c) & kNumeric; }       // Rust's char::is_numeric: a newer Unicode
inline bool is_space(char32_t c) { return flags(c) & kSpace; }           // White_Space
inline bool is_punctuation(char32_t c) { return flags(c) & kPunctuation; }
inline bool is_word(char32_t c) { return flags(c) & kWord; }             // \w

struct Range {
  char32_t first, last;
};
// The code points of a property such as "L", "Lu" or "N", in order; empty when there is no such property.
std::vector<Range> property_ranges(std::string_view name);
std::vector<Range> space_ranges();

enum class Form { kNfc, kNfd, kNfkc, kNfkd };
// Text must be valid UTF-8.
std::string normalize(std::string_view text, Form form);
std::string lowercase(std::string_view text);

}  // namespace retort::unicode
