#include "eval/tasks/python_text.h"

#include <utf8proc.h>

#include "io/unicode.h"
#include "io/utf8.h"

namespace retort::harness {

bool is_python_space(char32_t c) { return unicode::is_space(c) || (c >= 0x1c && c <= 0x1f); }

size_t trailing_space_bytes(std::string_view text) {
  size_t kept = 0;
  for (size_t at = 0; at < text.size();) {
    if (!is_python_space(utf8::next(text, at))) kept = at;
  }
  return text.size() - kept;
}

std::string_view strip_left(std::string_view text) {
  for (size_t at = 0, start = 0; at < text.size(); start = at) {
    if (!is_python_space(utf8::next(text, at))) return text.substr(start);
  }
  return {};
}

std::string_view strip(std::string_view text) {
  text = strip_left(text);
  return text.substr(0, text.size() - trailing_space_bytes(text));
}

std::string capitalize(std::string_view text) {
  if (text.empty()) return {};
  size_t at = 0;
  std::string out;
  utf8::append(out, char32_t(utf8proc_totitle(utf8proc_int32_t(utf8::next(text, at)))));
  return out + unicode::lowercase(text.substr(at));
}

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  size_t start = 0;
  for (size_t at; (at = text.find(from, start)) != std::string_view::npos; start = at + from.size()) {
    out.append(text, start, at - start).append(to);
  }
  return out.append(text, start);
}

int64_t count_words(std::string_view text) {
  int64_t gaps = 0;
  bool in_gap = false;
  for (size_t at = 0; at < text.size();) {
    const bool space = is_python_space(utf8::next(text, at));
    gaps += space && !in_gap;
    in_gap = space;
  }
  return gaps + 1;
}

}  // namespace retort::harness
