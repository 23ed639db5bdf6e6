#include "serve/json_guard.h"

namespace retort::serve {
namespace {

constexpr int kMostLevels = 64, kMostSpaces = 16;

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r'; }

}  // namespace

bool JsonGuard::accept(std::string_view bytes) {
  for (const char c : bytes) {
    if (!accept(c)) return false;
  }
  return true;
}

bool JsonGuard::accept(char c) {
  switch (state_) {
    case State::kString:
    case State::kEscape:
    case State::kHex: return in_string(c);
    case State::kMinus:
    case State::kZero:
    case State::kDigits:
    case State::kPoint:
    case State::kFraction:
    case State::kExponent:
    case State::kExponentSign:
    case State::kExponentDigits: return in_number(c);
    case State::kLiteral:
      if (c != *literal_) return false;
      if (*++literal_ == '\0') value_over();
      return true;
    default: break;
  }
  if (is_space(c)) return ++spaces_ <= kMostSpaces;
  spaces_ = 0;
  return between(c);
}

bool JsonGuard::between(char c) {
  switch (state_) {
    case State::kStart: return c == '{' && open(true);
    case State::kValueOrEnd:
      if (c == ']') return close(false);
      return begin_value(c);
    case State::kValue: return begin_value(c);
    case State::kKeyOrEnd:
      if (c == '}') return close(true);
      [[fallthrough]];
    case State::kKey:
      if (c != '"') return false;
      key_ = true;
      state_ = State::kString;
      return true;
    case State::kColon:
      if (c != ':') return false;
      state_ = State::kValue;
      return true;
    case State::kCommaOrEnd:
      if (c == '}' || c == ']') return close(c == '}');
      if (c != ',') return false;
      state_ = in_object() ? State::kKey : State::kValue;
      return true;
    default: return false;  // kComplete
  }
}

bool JsonGuard::begin_value(char c) {
  const auto literal = [&](const char* rest) {
    literal_ = rest;
    state_ = State::kLiteral;
    return true;
  };
  switch (c) {
    case '{': return open(true);
    case '[': return open(false);
    case '"':
      key_ = false;
      state_ = State::kString;
      return true;
    case 't': return literal("rue");
    case 'f': return literal("alse");
    case 'n': return literal("ull");
    case '-': state_ = State::kMinus; return true;
    case '0': state_ = State::kZero; return true;
    default:
      state_ = State::kDigits;
      return is_digit(c);
  }
}

bool JsonGuard::open(bool object) {
  if (depth_ == kMostLevels) return false;
  objects_ = (objects_ & ~(uint64_t(1) << depth_)) | uint64_t(object) << depth_;
  ++depth_;
  state_ = object ? State::kKeyOrEnd : State::kValueOrEnd;
  return true;
}

bool JsonGuard::close(bool object) {
  if (in_object() != object) return false;
  --depth_;
  value_over();
  return true;
}

bool JsonGuard::in_string(char c) {
  if (state_ == State::kHex) return in_hex(c);
  if (low_due_ && (state_ == State::kEscape ? c != 'u' : c != '\\')) return false;
  if (state_ == State::kEscape) {
    state_ = c == 'u' ? State::kHex : State::kString;
    hex_left_ = 4;
    return std::string_view("\"\\/bfnrtu").find(c) != std::string_view::npos;
  }
  if (c == '\\') {
    state_ = State::kEscape;
  } else if (c == '"') {
    if (key_) state_ = State::kColon;
    else value_over();
  }
  return uint8_t(c) >= 0x20;
}

// Surrogates come in pairs, \ud800-\udbff before \udc00-\udfff: half of one is no text, and parsers refuse it.
bool JsonGuard::in_hex(char c) {
  const char l = c >= 'A' && c <= 'F' ? char(c - 'A' + 'a') : c;
  if (!is_digit(l) && !(l >= 'a' && l <= 'f')) return false;
  if (hex_left_ == 4) {
    hex_d_ = l == 'd';
    if (low_due_ && !hex_d_) return false;
  }
  if (hex_left_ == 3 && hex_d_) {
    const bool low = l >= 'c';
    if (low != low_due_) return false;
    low_due_ = !low && l >= '8';
  }
  if (--hex_left_ == 0) state_ = State::kString;
  return true;
}

bool JsonGuard::in_number(char c) {
  const auto to = [&](State next) {
    state_ = next;
    return true;
  };
  switch (state_) {
    case State::kMinus: return is_digit(c) && to(c == '0' ? State::kZero : State::kDigits);
    case State::kPoint: return is_digit(c) && to(State::kFraction);
    case State::kExponent: return c == '+' || c == '-' ? to(State::kExponentSign) : is_digit(c) && to(State::kExponentDigits);
    case State::kExponentSign: return is_digit(c) && to(State::kExponentDigits);
    default: break;
  }
  // Here the number may be over.
  if (is_digit(c) && state_ != State::kZero) return true;
  if (c == '.' && (state_ == State::kZero || state_ == State::kDigits)) return to(State::kPoint);
  if ((c == 'e' || c == 'E') && state_ != State::kExponentDigits) return to(State::kExponent);
  value_over();
  return accept(c);
}

}  // namespace retort::serve
