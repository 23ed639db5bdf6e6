// A reader of Python literals: some datasets hold lists of dictionaries printed by Python in a string column.
#include <charconv>

#include "eval/tasks/python_text.h"
#include "io/utf8.h"

namespace retort::harness {
namespace {

using Json = nlohmann::ordered_json;
constexpr int kMostDepth = 32;

class LiteralReader {
 public:
  LiteralReader(const std::string& where, std::string_view text) : where_(where), text_(text) {}

  Result<Json> read() {
    RETORT_TRY(Json value, read_value(0));
    skip_space();
    if (at_ < text_.size()) return bad("nothing more");
    return value;
  }

 private:
  Error bad(const char* expected) const { return invalid(where_, ": no Python literal: byte ", at_, ": expected ", expected); }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void skip_space() {
    while (at_ < text_.size() && std::string_view(" \t\r\n\f").find(text_[at_]) != std::string_view::npos) ++at_;
  }
  bool take(char c) {
    skip_space();
    if (peek() != c || at_ >= text_.size()) return false;
    ++at_;
    return true;
  }
  bool take_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Result<Json> read_value(int depth) {
    if (depth > kMostDepth) return bad("less nesting");
    skip_space();
    const char c = peek();
    if (c == '\'' || c == '"') return read_strings();
    if (take('[')) return read_list(']', depth);
    if (take('(')) return read_list(')', depth);
    if (take('{')) return read_dictionary(depth);
    if (take_word("True")) return Json(true);
    if (take_word("False")) return Json(false);
    if (take_word("None")) return Json(nullptr);
    return read_number();
  }

  Result<Json> read_list(char end, int depth) {
    Json out = Json::array();
    while (!take(end)) {
      RETORT_TRY(Json value, read_value(depth + 1));
      out.push_back(std::move(value));
      if (take(',')) continue;
      if (!take(end)) return bad("a comma or the end of the list");
      break;
    }
    return out;
  }

  Result<Json> read_dictionary(int depth) {
    Json out = Json::object();
    while (!take('}')) {
      skip_space();
      if (peek() != '\'' && peek() != '"') return bad("a string as key");
      RETORT_TRY(const Json key, read_strings());
      if (!take(':')) return bad("a colon");
      RETORT_TRY(Json value, read_value(depth + 1));
      out[key.get<std::string>()] = std::move(value);
      if (take(',')) continue;
      if (!take('}')) return bad("a comma or the end of the dictionary");
      break;
    }
    return out;
  }

  Result<Json> read_number() {
    double value = 0;
    const char* first = text_.data() + at_;
    const auto [end, error] = std::from_chars(first, text_.data() + text_.size(), value);
    if (error != std::errc()) return bad("a value");
    const std::string_view digits(first, size_t(end - first));
    at_ += digits.size();
    int64_t whole = 0;
    const auto [stop, not_whole] = std::from_chars(first, end, whole);
    return not_whole == std::errc() && stop == end ? Json(whole) : Json(value);
  }

  // Neighbouring strings are one.
  Result<Json> read_strings() {
    std::string out;
    do {
      RETORT_RETURN_IF_ERROR(read_string(out));
      skip_space();
    } while (peek() == '\'' || peek() == '"');
    return Json(std::move(out));
  }

  Status read_string(std::string& out) {
    const char quote = text_[at_++];
    while (true) {
      if (at_ >= text_.size()) return bad("the end of a string");
      const char c = text_[at_++];
      if (c == quote) return {};
      if (c == '\\') RETORT_RETURN_IF_ERROR(read_escape(out));
      else out += c;
    }
  }

  Status read_escape(std::string& out) {
    if (at_ >= text_.size()) return bad("an escape");
    const char c = text_[at_++];
    constexpr std::string_view kNames = "abfnrtv\\'\"", kValues = "\a\b\f\n\r\t\v\\'\"";
    if (const size_t known = kNames.find(c); known != std::string_view::npos) return out += kValues[known], Status();
    if (c == '\n') return {};
    if (c == 'x') return read_code(out, 2, 16);
    if (c == 'u') return read_code(out, 4, 16);
    if (c == 'U') return read_code(out, 8, 16);
    if (c >= '0' && c <= '7') {
      --at_;
      size_t digits = 0;
      while (digits < 3 && at_ + digits < text_.size() && text_[at_ + digits] >= '0' && text_[at_ + digits] <= '7') ++digits;
      return read_code(out, digits, 8);
    }
    out += '\\';  // Python keeps the backslash of an escape that it does not know
    out += c;
    return {};
  }

  Status read_code(std::string& out, size_t digits, int base) {
    uint32_t code = 0;
    const char* first = text_.data() + at_;
    if (at_ + digits > text_.size()) return bad("the digits of an escape");
    const auto [end, error] = std::from_chars(first, first + digits, code, base);
    if (error != std::errc() || end != first + digits) return bad("the digits of an escape");
    if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return bad("a Unicode character");
    at_ += digits;
    utf8::append(out, char32_t(code));
    return {};
  }

  const std::string& where_;
  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

Result<nlohmann::ordered_json> python_literal(const std::string& where, std::string_view text) {
  return LiteralReader(where, text).read();
}

}  // namespace retort::harness
