// Keeps an answer JSON: told the bytes so far, says which may come next.
//
// Layer: serve. A value of a few words, copied freely: whether a token may come is tried on a copy.
//
// RFC 8259, with the root an object, at most 64 levels, and at most 16 characters of white space in a row (a model that may
// indent for ever sometimes does). Bytes of 128 and up are taken inside strings without a look at their order.
#pragma once

#include <cstdint>
#include <string_view>

namespace retort::serve {

class JsonGuard {
 public:
  // False: no JSON begins like this; then the guard is of no use any more.
  bool accept(std::string_view bytes);
  // The object is whole. Nothing but white space may follow.
  bool complete() const { return state_ == State::kComplete; }

 private:
  enum class State : uint8_t {
    kStart, kValue, kValueOrEnd, kKey, kKeyOrEnd, kColon, kCommaOrEnd, kComplete,  // between tokens: white space may come
    kString, kEscape, kHex, kMinus, kZero, kDigits, kPoint, kFraction, kExponent, kExponentSign, kExponentDigits, kLiteral
  };
  bool accept(char c);
  bool between(char c);
  bool begin_value(char c);
  bool in_string(char c);
  bool in_hex(char c);
  bool in_number(char c);
  bool open(bool object);
  bool close(bool object);
  void value_over() { state_ = depth_ == 0 ? State::kComplete : State::kCommaOrEnd; }
  bool in_object() const { return depth_ > 0 && (objects_ >> (depth_ - 1) & 1) != 0; }

  State state_ = State::kStart;
  bool key_ = false;        // the string is a key
  uint8_t depth_ = 0;
  uint8_t hex_left_ = 0, spaces_ = 0;
  bool hex_d_ = false;      // the first digit of \uXXXX was d: a surrogate if 8 or more follows
  bool low_due_ = false;    // the string's last \uXXXX was the first half of a pair
  uint64_t objects_ = 0;    // a bit per level: object or list
  const char* literal_ = "";  // what is left of true, false or null
};

}  // namespace retort::serve
