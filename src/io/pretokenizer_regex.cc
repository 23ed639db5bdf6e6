// The regular expressions of Split. The common ones are written out by hand: several times faster, and their Unicode
// classes are those of `tokenizers`. Others go to PCRE2 with \p{..}, \s, \d and \w spelled out as ranges of code points,
// because PCRE2's own tables are of another Unicode version.
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <cstdio>

#include "io/pretokenizer.h"
#include "io/utf8.h"

namespace retort {

const char* const kGpt2Regex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::string llama3_regex(const std::string& digits) {
  return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)" + digits +
         R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
}

namespace {

using unicode::kLetter;
using unicode::kNumber;
using unicode::kSpace;

// Reads characters of valid UTF-8 with their classes; past the end a character of no class.
struct Reader {
  std::string_view text;
  struct Char {
    char32_t c;
    uint8_t flags;
    size_t end;
  };
  Char at(size_t pos) const {
    if (pos >= text.size()) return {0, 0, pos};
    size_t end = pos;
    const char32_t c = utf8::next(text, end);
    return {c, unicode::flags(c), end};
  }
  bool other(const Char& x, size_t pos) const { return pos < text.size() && !(x.flags & (kLetter | kNumber | kSpace)); }
  size_t run(size_t pos, uint8_t flag) const {
    for (Char x = at(pos); x.flags & flag; x = at(pos)) pos = x.end;
    return pos;
  }
  size_t run_other(size_t pos) const {
    for (Char x = at(pos); other(x, pos); x = at(pos)) pos = x.end;
    return pos;
  }
};

// End of 's 't 're 've 'm 'll 'd at `pos`, or pos. `fold` also takes capitals and the long s.
size_t contraction(std::string_view text, size_t pos, bool fold) {
  if (pos >= text.size() || text[pos] != '\'') return pos;
  const auto lower = [&](size_t i) -> char {
    if (i >= text.size()) return 0;
    const char c = text[i];
    return fold && c >= 'A' && c <= 'Z' ? char(c + 32) : c;
  };
  const char a = lower(pos + 1), b = lower(pos + 2);
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return pos + 2;
  if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return pos + 3;
  if (fold && text.substr(pos + 1, 2) == "\xc5\xbf") return pos + 3;
  return pos;
}

// \s+(?!\S)|\s+ at a space: a run that is followed by something gives up its last character, unless it is the only one.
size_t spaces(const Reader& in, size_t pos) {
  size_t before_last = pos, end = pos;
  for (auto x = in.at(pos); x.flags & kSpace; x = in.at(end)) {
    before_last = end;
    end = x.end;
  }
  return end < in.text.size() && before_last > pos ? before_last : end;
}

// Of patterns that match everywhere: every match begins where the one before it ended.
class SeamlessPattern : public SplitPattern {
 public:
  Result<bool> find(std::string_view text, size_t pos, size_t& first, size_t& last) const final {
    if (pos >= text.size()) return false;
    first = pos;
    last = next({text}, pos);
    return true;
  }

 private:
  virtual size_t next(const Reader& in, size_t pos) const = 0;  // the end of the match at `pos`
};

class Gpt2Pattern : public SeamlessPattern {
  size_t next(const Reader& in, size_t pos) const override {
    if (const size_t end = contraction(in.text, pos, false); end > pos) return end;
    auto x = in.at(pos);
    size_t body = pos;
    if (x.c == ' ') {
      body = x.end;
      x = in.at(body);
    }
    if (x.flags & kLetter) return in.run(x.end, kLetter);
    if (x.flags & kNumber) return in.run(x.end, kNumber);
    if (in.other(x, body)) return in.run_other(x.end);
    return spaces(in, pos);
  }
};

class Llama3Pattern : public SeamlessPattern {
 public:
  explicit Llama3Pattern(size_t max_digits) : max_digits_(max_digits) {}

 private:
  size_t next(const Reader& in, size_t pos) const override {
    if (const size_t end = contraction(in.text, pos, true); end > pos) return end;
    const auto x = in.at(pos);
    if (x.flags & kLetter) return in.run(x.end, kLetter);
    if (x.flags & kNumber) return digits(in, pos);
    const auto y = in.at(x.end);
    if (x.c != '\r' && x.c != '\n' && (y.flags & kLetter)) return in.run(y.end, kLetter);
    if (x.c == ' ' && in.other(y, x.end)) return newlines(in.text, in.run_other(y.end));
    if (in.other(x, pos)) return newlines(in.text, in.run_other(x.end));
    size_t after_newline = pos;
    for (auto s = x; s.flags & kSpace; s = in.at(s.end)) {
      if (s.c == '\r' || s.c == '\n') after_newline = s.end;
    }
    return after_newline > pos ? after_newline : spaces(in, pos);
  }
  size_t digits(const Reader& in, size_t pos) const {
    for (size_t n = 0; n < max_digits_; ++n) {
      const auto x = in.at(pos);
      if (!(x.flags & kNumber)) break;
      pos = x.end;
    }
    return pos;
  }
  static size_t newlines(std::string_view text, size_t pos) {
    while (pos < text.size() && (text[pos] == '\r' || text[pos] == '\n')) ++pos;
    return pos;
  }
  size_t max_digits_;
};

class LiteralPattern : public SplitPattern {
 public:
  explicit LiteralPattern(std::string text) : text_(std::move(text)) {}
  Result<bool> find(std::string_view text, size_t pos, size_t& first, size_t& last) const override {
    first = text_.empty() ? std::string_view::npos : text.find(text_, pos);
    if (first == std::string_view::npos) return false;
    last = first + text_.size();
    return true;
  }

 private:
  std::string text_;
};

class PcrePattern : public SplitPattern {
 public:
  explicit PcrePattern(pcre2_code* code) : code_(code) {}
  ~PcrePattern() override { pcre2_code_free(code_); }
  PcrePattern(const PcrePattern&) = delete;
  PcrePattern& operator=(const PcrePattern&) = delete;

  Result<bool> find(std::string_view text, size_t pos, size_t& first, size_t& last) const override {
    // One match block per thread: a block fits any pattern, only the whole match is read.
    struct Scratch {
      pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
      pcre2_match_context* context = pcre2_match_context_create(nullptr);
      ~Scratch() {
        pcre2_match_data_free(data);
        pcre2_match_context_free(context);
      }
    };
    thread_local Scratch scratch;
    if (scratch.data == nullptr || scratch.context == nullptr) return io_error("out of memory for a regular expression");
    pcre2_set_match_limit(scratch.context, 5'000'000);
    const int n = pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), pos, PCRE2_NO_UTF_CHECK,
                              scratch.data, scratch.context);
    if (n == PCRE2_ERROR_NOMATCH) return false;
    if (n < 0) {
      return invalid("pre_tokenizer: the regular expression gives up at byte ", pos, " of a text (PCRE2 error ", n,
                     "); it backtracks too much");
    }
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(scratch.data);
    first = range[0];
    last = std::max(range[0], range[1]);
    return true;
  }

 private:
  pcre2_code* code_;
};

void append_ranges(std::string& out, const std::vector<unicode::Range>& ranges, bool complement) {
  const auto put = [&](char32_t first, char32_t last) {
    char buffer[40];
    std::snprintf(buffer, sizeof buffer, "\\x{%x}-\\x{%x}", unsigned(first), unsigned(last));
    out += buffer;
  };
  if (!complement) {
    for (const auto& r : ranges) put(r.first, r.last);
    return;
  }
  char32_t next = 0;
  const auto gap = [&](char32_t first, char32_t end) {  // surrogates are no characters
    if (first < 0xd800 && end > 0xd800) put(first, 0xd7ff);
    if (first < 0xe000 && end > 0xd800) first = 0xe000;
    if (first < end) put(first, end - 1);
  };
  for (const auto& r : ranges) {
    gap(next, r.first);
    next = r.last + 1;
  }
  gap(next, 0x110000);
}

// Replaces the class escapes by ranges. Constructs that Oniguruma reads otherwise than PCRE2 are refused.
Result<std::string> spell_out_classes(const std::string& regex, const std::string& where) {
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < regex.size(); ++i) {
    const char c = regex[i];
    if (c != '\\' || i + 1 == regex.size()) {
      if (in_class && (c == '[' || regex.compare(i, 2, "&&") == 0)) {
        return invalid(where, ": nested classes and && in a class are not supported: ", regex);
      }
      if (c == '[') {
        in_class = true;
        if (i + 1 < regex.size() && regex[i + 1] == '^') out += regex[i++];
      } else if (c == ']') {
        in_class = false;
      }
      out += regex[i];
      continue;
    }
    const char escape = regex[++i];
    std::vector<unicode::Range> ranges;
    bool negated = escape == 'S' || escape == 'D' || escape == 'W' || escape == 'P';
    if (escape == 's' || escape == 'S') {
      ranges = unicode::space_ranges();
    } else if (escape == 'd' || escape == 'D') {
      ranges = unicode::property_ranges("Nd");
    } else if (escape == 'h' || escape == 'H' || escape == 'R' || escape == 'X' || escape == 'w' || escape == 'W') {
      return invalid(where, ": \\", escape, " is not supported: ", regex);
    } else if (escape == 'p' || escape == 'P') {
      const size_t close = regex.find('}', i);
      if (i + 1 >= regex.size() || regex[i + 1] != '{' || close == std::string::npos) {
        return invalid(where, ": \\", escape, " without {name}: ", regex);
      }
      std::string name = regex.substr(i + 2, close - i - 2);
      if (!name.empty() && name[0] == '^') {
        negated = !negated;
        name.erase(0, 1);
      }
      ranges = unicode::property_ranges(name);
      if (ranges.empty()) {  // a script: PCRE2 knows those
        out += cat('\\', negated ? 'P' : 'p', '{', name, '}');
        i = close;
        continue;
      }
      i = close;
    } else {
      out += '\\';
      out += escape;
      continue;
    }
    if (!in_class) out += '[';
    append_ranges(out, ranges, negated);
    if (!in_class) out += ']';
  }
  return out;
}

}  // namespace

std::shared_ptr<const SplitPattern> make_literal_pattern(std::string text) {
  return std::make_shared<LiteralPattern>(std::move(text));
}

Result<std::shared_ptr<const SplitPattern>> make_split_pattern(const std::string& regex, const std::string& where) {
  using Out = std::shared_ptr<const SplitPattern>;
  if (regex == kGpt2Regex) return Out(std::make_shared<Gpt2Pattern>());
  if (regex == llama3_regex("\\p{N}")) return Out(std::make_shared<Llama3Pattern>(1));
  if (regex == llama3_regex("\\p{N}{1,3}")) return Out(std::make_shared<Llama3Pattern>(3));
  if (regex == llama3_regex("\\p{N}+")) return Out(std::make_shared<Llama3Pattern>(size_t(-1)));
  if (regex.size() > 10'000) return invalid(where, ": a regular expression of ", regex.size(), " bytes; at most 10000");
  RETORT_TRY(const std::string spelled, spell_out_classes(regex, where));
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(spelled.data()), spelled.size(), PCRE2_UTF, &error, &offset,
                                   nullptr);
  if (code == nullptr) {
    char message[256] = "";
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(message), sizeof message);
    return invalid(where, ": not a valid regular expression (", message, "): ", regex);
  }
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without a JIT the interpreter does the same, slower
  return Out(std::make_shared<PcrePattern>(code));
}

}  // namespace retort
