#include "io/jinja_strings.h"

#include <utf8proc.h>

#include <algorithm>

#include "io/unicode.h"
#include "io/utf8.h"

namespace retort::jinja {
namespace {

size_t previous(const std::string& s, size_t pos) {
  do {
    --pos;
  } while (pos > 0 && (uint8_t(s[pos]) & 0xc0) == 0x80);
  return pos;
}

// Maps characters; the result is a user's as a whole when any of the text was.
template <class Map>
Text mapped(const Text& text, Map map) {
  std::string out;
  for (size_t pos = 0; pos < text.s.size();) map(utf8::next(text.s, pos), out);
  return Text(std::move(out), text.tainted());
}

void put_upper(char32_t c, std::string& out) {
  if (c == 0xdf) {
    out += "SS";
  } else {
    utf8::append(out, char32_t(utf8proc_toupper(utf8proc_int32_t(c))));
  }
}

void put_title(char32_t c, std::string& out) {
  if (c == 0xdf) {
    out += "Ss";
  } else {
    utf8::append(out, char32_t(utf8proc_totitle(utf8proc_int32_t(c))));
  }
}

void put_lower(char32_t c, std::string& out) {
  std::string one;
  utf8::append(one, c);
  out += unicode::lowercase(one);
}

std::vector<Text> split_spaces(const Text& text, int64_t limit, bool from_right) {
  std::vector<std::pair<size_t, size_t>> words;
  size_t start = std::string::npos;
  for (size_t pos = 0; pos < text.s.size();) {
    const size_t here = pos;
    const bool space = is_python_space(utf8::next(text.s, pos));
    if (!space && start == std::string::npos) start = here;
    if (space && start != std::string::npos) words.emplace_back(std::exchange(start, std::string::npos), here);
  }
  if (start != std::string::npos) words.emplace_back(start, text.s.size());
  if (limit >= 0 && words.size() > size_t(limit) + 1) {
    if (from_right) {
      const size_t joined = words.size() - size_t(limit);
      words[joined - 1].first = 0;
      words.erase(words.begin(), words.begin() + long(joined) - 1);
    } else {
      words.resize(size_t(limit) + 1);
      words.back().second = text.s.size();
    }
  }
  std::vector<Text> out;
  for (const auto& [first, last] : words) out.push_back(text.substr(first, last - first));
  if (limit >= 0 && !out.empty()) {  // the uncut rest keeps its inner spaces only
    if (from_right) {
      out.front() = strip(out.front(), nullptr, false, true);
    } else if (words.size() <= size_t(limit)) {
      out.back() = strip(out.back(), nullptr, false, true);
    }
  }
  return out;
}

}  // namespace

Text strip(const Text& text, const std::string* chars, bool left, bool right) {
  std::vector<char32_t> set;
  for (size_t pos = 0; chars && pos < chars->size();) set.push_back(utf8::next(*chars, pos));
  const auto drop = [&](char32_t c) { return chars ? std::find(set.begin(), set.end(), c) != set.end() : is_python_space(c); };
  size_t first = 0, last = text.s.size();
  while (left && first < last) {
    size_t pos = first;
    if (!drop(utf8::next(text.s, pos))) break;
    first = pos;
  }
  while (right && last > first) {
    const size_t start = previous(text.s, last);
    size_t pos = start;
    if (!drop(utf8::next(text.s, pos))) break;
    last = start;
  }
  return text.substr(first, last - first);
}

std::vector<Text> split(const Text& text, const std::string& separator, int64_t limit, bool from_right) {
  if (separator.empty()) return split_spaces(text, limit, from_right);
  std::vector<Text> out;
  if (from_right) {
    size_t end = text.s.size();
    while (limit < 0 || int64_t(out.size()) < limit) {
      if (end < separator.size()) break;
      const size_t hit = text.s.rfind(separator, end - separator.size());
      if (hit == std::string::npos) break;
      out.push_back(text.substr(hit + separator.size(), end - hit - separator.size()));
      end = hit;
    }
    out.push_back(text.substr(0, end));
    std::reverse(out.begin(), out.end());
    return out;
  }
  size_t start = 0;
  for (size_t hit; (limit < 0 || int64_t(out.size()) < limit) && (hit = text.s.find(separator, start)) != std::string::npos;) {
    out.push_back(text.substr(start, hit - start));
    start = hit + separator.size();
  }
  out.push_back(text.substr(start));
  return out;
}

std::vector<Text> split_lines(const Text& text, bool keep_ends) {
  std::vector<Text> out;
  size_t start = 0;
  for (size_t pos = 0; pos < text.s.size();) {
    const size_t here = pos;
    const char32_t c = utf8::next(text.s, pos);
    if (!((c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 || c == 0x2029)) continue;
    if (c == 13 && pos < text.s.size() && text.s[pos] == '\n') ++pos;
    out.push_back(text.substr(start, (keep_ends ? pos : here) - start));
    start = pos;
  }
  if (start < text.s.size()) out.push_back(text.substr(start));
  return out;
}

Text replace(const Text& text, const std::string& from, const Text& to, int64_t limit, size_t max_size) {
  Text out;
  size_t done = 0, searched = 0;
  for (int64_t n = 0; (limit < 0 || n < limit) && out.s.size() <= max_size; ++n) {
    const size_t hit = text.s.find(from, searched);
    if (hit == std::string::npos) break;
    out.append(text.substr(done, hit - done));
    out.append(to);
    done = searched = hit + from.size();
    if (!from.empty()) continue;
    if (hit >= text.s.size()) break;  // an empty pattern matches between all characters and at both ends
    utf8::next(text.s, searched);
  }
  out.append(text.substr(done));
  return out;
}

Text upper(const Text& text) { return mapped(text, put_upper); }
Text lower(const Text& text) { return mapped(text, put_lower); }

Text capitalize(const Text& text) {
  bool first = true;
  return mapped(text, [&](char32_t c, std::string& out) { std::exchange(first, false) ? put_title(c, out) : put_lower(c, out); });
}

Text title(const Text& text) {
  bool in_word = false;
  return mapped(text, [&](char32_t c, std::string& out) {
    in_word ? put_lower(c, out) : put_title(c, out);
    in_word = unicode::is_letter(c);
  });
}

Text title_words(const Text& text) {
  bool start = true;
  return mapped(text, [&](char32_t c, std::string& out) {
    start ? put_upper(c, out) : put_lower(c, out);
    start = is_python_space(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
  });
}

Text indent_lines(const Text& text, const std::string& pad, bool first, bool blank, size_t max_size) {
  Text out;
  Text padded = text;
  padded.append(Text("\n"));  // Jinja's way not to lose a last empty line
  const auto lines = split_lines(padded, false);
  for (size_t i = 0; i < lines.size() && out.s.size() <= max_size; ++i) {
    if (i) out.append(Text("\n"));
    if (i ? blank || !lines[i].s.empty() : first) out.append(Text(pad));
    out.append(lines[i]);
  }
  return out;
}

}  // namespace retort::jinja
