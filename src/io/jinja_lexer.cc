#include <algorithm>
#include <cctype>

#include "io/jinja_ast.h"
#include "io/utf8.h"

namespace retort::jinja {
namespace {

using Kind = Token::Kind;

constexpr size_t kMaxSource = 4 << 20;

// End of the whitespace that starts at `pos`.
size_t skip_space(std::string_view s, size_t pos) {
  while (pos < s.size()) {
    size_t next = pos;
    if (!is_python_space(utf8::next(s, next))) break;
    pos = next;
  }
  return pos;
}

size_t trim_right(std::string_view s, size_t first, size_t last) {
  while (last > first) {
    size_t start = last - 1;
    while (start > first && (uint8_t(s[start]) & 0xc0) == 0x80) --start;
    size_t next = start;
    if (!is_python_space(utf8::next(s, next))) break;
    last = start;
  }
  return last;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : s_(source) {}

  Result<std::vector<Token>> run() {
    while (pos_ < s_.size()) RETORT_RETURN_IF_ERROR(step());
    out_.push_back({Kind::kEnd, "", line_});
    return std::move(out_);
  }

 private:
  // Literal text up to the next tag, then the tag.
  Status step() {
    const size_t text_start = pos_;
    const size_t tag = next_tag();
    if (tag == std::string_view::npos) {
      put_text(text_start, s_.size());
      pos_ = s_.size();
      return {};
    }
    const char kind = s_[tag + 1];
    const char sign = tag + 2 < s_.size() ? s_[tag + 2] : '\0';
    size_t text_end = tag;
    if (sign == '-') {
      text_end = trim_right(s_, text_start, tag);
    } else if (sign != '+' && kind != '{') {
      text_end = without_indent(text_start, tag);
    }
    put_text(text_start, text_end);
    advance_lines(text_end, tag);
    pos_ = tag + 2 + (sign == '-' || sign == '+' ? 1 : 0);
    if (kind == '#') return comment();
    if (kind == '%' && raw_begins()) return raw();
    return expression(kind == '{');
  }

  size_t next_tag() const {
    for (size_t i = pos_; (i = s_.find('{', i)) != std::string_view::npos; ++i) {
      if (i + 1 < s_.size() && (s_[i + 1] == '{' || s_[i + 1] == '%' || s_[i + 1] == '#')) return i;
    }
    return std::string_view::npos;
  }

  // lstrip_blocks: the spaces between the start of a line and a block do not count.
  size_t without_indent(size_t first, size_t last) const {
    const size_t newline = last == 0 ? std::string_view::npos : s_.rfind('\n', last - 1);
    const bool in_text = newline != std::string_view::npos && newline >= first;
    const size_t line_start = in_text ? newline + 1 : first;
    if (!in_text && !line_starting_) return last;
    return trim_right(s_, line_start, last) == line_start ? line_start : last;
  }

  void put_text(size_t first, size_t last) {
    if (first == last) return;
    out_.push_back({Kind::kText, std::string(s_.substr(first, last - first)), line_});
    advance_lines(first, last);
  }

  void advance_lines(size_t first, size_t last) { line_ += int(std::count(s_.begin() + long(first), s_.begin() + long(last), '\n')); }

  // After the closing sign: -%} eats whitespace, %} of a block eats one newline.
  void close(size_t after, char sign, bool trims) {
    size_t end = after;
    if (sign == '-') {
      end = skip_space(s_, after);
    } else if (trims && sign != '+' && end < s_.size() && s_[end] == '\n') {
      ++end;
    }
    advance_lines(after, end);
    pos_ = end;
    line_starting_ = end > 0 && s_[end - 1] == '\n';
  }

  Status comment() {
    const size_t end = s_.find("#}", pos_);
    if (end == std::string_view::npos) return template_error(line_, "a comment {# does not end");
    const char sign = end > pos_ && (s_[end - 1] == '-' || s_[end - 1] == '+') ? s_[end - 1] : '\0';
    advance_lines(pos_, end);
    close(end + 2, sign, true);
    return {};
  }

  bool raw_begins() const {
    const size_t word = skip_space(s_, pos_);
    if (s_.substr(word, 3) != "raw") return false;
    const size_t end = skip_space(s_, word + 3);
    return s_.substr(end, 2) == "%}" || s_.substr(end, 3) == "-%}" || s_.substr(end, 3) == "+%}";
  }

  Status raw() {
    const int first_line = line_;
    size_t end = s_.find("%}", pos_);
    close(end + 2, s_[end - 1], /*trims=*/false);
    line_starting_ = false;
    const size_t start = pos_;
    for (size_t tag = start; (tag = s_.find("{%", tag)) != std::string_view::npos; ++tag) {
      size_t word = tag + 2;
      const char sign = word < s_.size() ? s_[word] : '\0';
      if (sign == '-' || sign == '+') ++word;
      word = skip_space(s_, word);
      if (s_.substr(word, 6) != "endraw") continue;
      end = skip_space(s_, word + 6);
      const char last_sign = s_.substr(end, 1) == "-" ? '-' : s_.substr(end, 1) == "+" ? '+' : '\0';
      if (last_sign) ++end;
      if (s_.substr(end, 2) != "%}") continue;
      const size_t text_end = sign == '-' ? trim_right(s_, start, tag) : sign == '+' ? tag : without_indent(start, tag);
      put_text(start, text_end);
      advance_lines(text_end, end);
      close(end + 2, last_sign, true);
      return {};
    }
    return template_error(first_line, "{% raw %} does not end");
  }

  Status expression(bool output) {
    out_.push_back({output ? Kind::kOutputBegin : Kind::kBlockBegin, "", line_});
    const std::string_view closing = output ? "}}" : "%}";
    std::vector<char> open;  // brackets: a }} inside a dict does not close the tag
    while (true) {
      const size_t next = skip_space(s_, pos_);
      advance_lines(pos_, next);
      pos_ = next;
      if (pos_ >= s_.size()) return template_error(line_, cat("a tag does not end with ", closing));
      const char c = s_[pos_];
      if (open.empty()) {
        const bool sign = (c == '-' || c == '+') && s_.substr(pos_ + 1, 2) == closing;
        if (sign || s_.substr(pos_, 2) == closing) {
          out_.push_back({output ? Kind::kOutputEnd : Kind::kBlockEnd, "", line_});
          close(pos_ + (sign ? 3 : 2), sign ? c : '\0', !output);
          return {};
        }
      }
      if (c == '(' || c == '[' || c == '{') open.push_back(c);
      if (c == ')' || c == ']' || c == '}') {
        const char want = c == ')' ? '(' : c == ']' ? '[' : '{';
        if (open.empty() || open.back() != want) return template_error(line_, cat("unexpected '", c, "'"));
        open.pop_back();
      }
      RETORT_RETURN_IF_ERROR(word());
    }
  }

  // One token of an expression.
  Status word() {
    const char c = s_[pos_];
    if (c == '\'' || c == '"') return string(c);
    if (std::isdigit(uint8_t(c))) return number();
    const auto name_part = [](char x) { return std::isalnum(uint8_t(x)) || x == '_' || uint8_t(x) >= 0x80; };
    if (name_part(c)) {
      size_t end = pos_;
      while (end < s_.size() && name_part(s_[end])) ++end;
      return put(Kind::kName, end);
    }
    for (std::string_view two : {"==", "!=", "<=", ">=", "//", "**"}) {
      if (s_.substr(pos_, 2) == two) return put(Kind::kOperator, pos_ + 2);
    }
    if (std::string_view("+-*/%~<>=.,:|()[]{}").find(c) == std::string_view::npos || c == '\0') {
      return template_error(line_, cat("unexpected character '", std::isprint(uint8_t(c)) ? std::string(1, c) : "?", "'"));
    }
    return put(Kind::kOperator, pos_ + 1);
  }

  Status put(Kind kind, size_t end) {
    out_.push_back({kind, std::string(s_.substr(pos_, end - pos_)), line_});
    pos_ = end;
    return {};
  }

  Status number() {
    size_t end = pos_;
    const auto digits = [&] {
      while (end < s_.size() && (std::isdigit(uint8_t(s_[end])) || s_[end] == '_')) ++end;
    };
    digits();
    Kind kind = Kind::kInteger;
    if (end + 1 < s_.size() && s_[end] == '.' && std::isdigit(uint8_t(s_[end + 1]))) {
      kind = Kind::kFloat;
      ++end;
      digits();
    }
    if (end < s_.size() && (s_[end] == 'e' || s_[end] == 'E')) {
      size_t exponent = end + 1;
      if (exponent < s_.size() && (s_[exponent] == '+' || s_[exponent] == '-')) ++exponent;
      if (exponent < s_.size() && std::isdigit(uint8_t(s_[exponent]))) {
        kind = Kind::kFloat;
        end = exponent;
        digits();
      }
    }
    RETORT_RETURN_IF_ERROR(put(kind, end));
    std::erase(out_.back().text, '_');
    return {};
  }

  Status string(char quote) {
    std::string text;
    const int first_line = line_;
    size_t i = pos_ + 1;
    for (; i < s_.size() && s_[i] != quote; ++i) {
      if (s_[i] != '\\' || i + 1 >= s_.size()) {
        text += s_[i];
        continue;
      }
      const char e = s_[++i];
      const int digits = e == 'x' ? 2 : e == 'u' ? 4 : e == 'U' ? 8 : 0;
      if (digits > 0) {
        char32_t c = 0;
        for (int k = 0; k < digits; ++k) {
          const char h = i + 1 < s_.size() ? s_[++i] : '\0';
          if (!std::isxdigit(uint8_t(h))) return template_error(first_line, cat("a \\", e, " without ", digits, " digits"));
          c = c * 16 + char32_t(std::isdigit(uint8_t(h)) ? h - '0' : std::tolower(h) - 'a' + 10);
        }
        if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) return template_error(first_line, "an escape that is no character");
        utf8::append(text, c);
      } else if (e >= '0' && e <= '7') {
        char32_t c = char32_t(e - '0');
        for (int k = 0; k < 2 && i + 1 < s_.size() && s_[i + 1] >= '0' && s_[i + 1] <= '7'; ++k) c = c * 8 + char32_t(s_[++i] - '0');
        utf8::append(text, c);
      } else if (e != '\n') {
        static constexpr std::string_view kFrom = "ntrabfv\\'\"", kTo = "\n\t\r\a\b\f\v\\'\"";
        const size_t at = kFrom.find(e);
        if (at == std::string_view::npos) text += '\\';
        text += at == std::string_view::npos ? e : kTo[at];
      }
    }
    if (i >= s_.size()) return template_error(first_line, "a string does not end");
    advance_lines(pos_, i);
    out_.push_back({Kind::kString, std::move(text), first_line});
    pos_ = i + 1;
    return {};
  }

  std::string_view s_;
  size_t pos_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> out_;
};

}  // namespace

Result<std::vector<Token>> tokenize(std::string_view source) {
  if (source.size() > kMaxSource) return invalid("chat template: ", source.size(), " bytes; at most ", kMaxSource);
  if (const size_t bad = utf8::first_invalid(source); bad != utf8::kValid) {
    return invalid("chat template: not valid UTF-8 at byte ", bad);
  }
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      text += source[i];
    } else {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (!text.empty() && text.back() == '\n') text.pop_back();
  return Lexer(text).run();
}

}  // namespace retort::jinja
