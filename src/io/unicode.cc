#include "io/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdlib>

#include "io/utf8.h"

namespace retort::unicode {
namespace {

constexpr const char* kNames[] = {"Cn", "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps",
                                  "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Co"};

uint8_t flags_of(Category cat) {
  uint8_t out = 0;
  if (cat >= kLu && cat <= kLo) out |= kLetter;
  if (cat >= kNd && cat <= kNo) out |= kNumber | kNumeric;
  if (cat >= kPc && cat <= kPo) out |= kPunctuation;
  if ((cat >= kLu && cat <= kNl) || cat == kPc) out |= kWord;
  if (cat >= kZs && cat <= kZp) out |= kSpace;
  return out;
}

struct Tables {
  std::vector<uint8_t> categories = std::vector<uint8_t>(0x110000);
  std::vector<uint8_t> flags = std::vector<uint8_t>(0x110000);

  Tables() {
    for (size_t i = 0; i < kCategoryRunCount; ++i) {
      const uint32_t first = kCategoryRuns[i] >> 5;
      const uint32_t end = i + 1 < kCategoryRunCount ? kCategoryRuns[i + 1] >> 5 : 0x110000;
      const auto cat = Category(kCategoryRuns[i] & 31);
      std::fill(categories.begin() + first, categories.begin() + end, cat);
      std::fill(flags.begin() + first, flags.begin() + end, flags_of(cat));
    }
    for (size_t i = 0; i < kExtraNumericCount; ++i) flags[kExtraNumeric[i]] |= kNumeric;
    for (size_t i = 0; i < kNotNormalizedCount; ++i) flags[kNotNormalized[i]] |= kOpaque;
    for (char32_t c : {9, 10, 11, 12, 13, 0x85}) flags[c] |= kSpace;
  }
};

const Tables& tables() {
  static const Tables* const made = new Tables;
  return *made;
}

template <class In>
std::vector<Range> ranges_where(In in) {
  std::vector<Range> out;
  for (char32_t c = 0; c < 0x110000; ++c) {
    if ((c >= 0xd800 && c < 0xe000) || !in(c)) continue;
    if (!out.empty() && out.back().last + 1 == c) {
      out.back().last = c;
    } else {
      out.push_back({c, c});
    }
  }
  return out;
}

void normalize_known(std::string_view text, Form form, std::string& out) {
  if (text.empty()) return;
  int options = UTF8PROC_STABLE;
  options |= form == Form::kNfc || form == Form::kNfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == Form::kNfkc || form == Form::kNfkd) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* raw = nullptr;
  const auto n = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), utf8proc_ssize_t(text.size()), &raw,
                              utf8proc_option_t(options));
  if (n < 0) {  // only for invalid UTF-8, which callers rule out
    out += text;
    return;
  }
  out.append(reinterpret_cast<const char*>(raw), size_t(n));
  std::free(raw);
}

}  // namespace

Category category(char32_t c) { return Category(tables().categories[c]); }
uint8_t flags(char32_t c) { return tables().flags[c]; }

std::vector<Range> property_ranges(std::string_view name) {
  std::array<bool, std::size(kNames)> wanted{};
  for (size_t i = 0; i < wanted.size(); ++i) wanted[i] = std::string_view(kNames[i]).substr(0, name.size()) == name;
  if (name.empty()) return {};
  return ranges_where([&](char32_t c) { return wanted[category(c)]; });
}

std::vector<Range> space_ranges() { return ranges_where(is_space); }

std::string normalize(std::string_view text, Form form) {
  // Nothing below U+0300 composes or decomposes under NFC.
  if (form == Form::kNfc &&
      std::none_of(text.begin(), text.end(), [](char b) { return uint8_t(b) >= 0xcc; })) {
    return std::string(text);
  }
  std::string out;
  size_t start = 0;
  for (size_t pos = 0; pos < text.size();) {
    const size_t here = pos;
    if (uint8_t(text[pos]) < 0xcc) {
      ++pos;  // ASCII and Latin: never opaque
      continue;
    }
    if (!(flags(utf8::next(text, pos)) & kOpaque)) continue;
    normalize_known(text.substr(start, here - start), form, out);
    out += text.substr(here, pos - here);
    start = pos;
  }
  normalize_known(text.substr(start), form, out);
  return out;
}

std::string lowercase(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const char32_t c = utf8::next(text, pos);
    if (c == 0x130) {
      out += "i\xcc\x87";  // the only character whose lower case is two
    } else {
      utf8::append(out, char32_t(utf8proc_tolower(utf8proc_int32_t(c))));
    }
  }
  return out;
}

}  // namespace retort::unicode
