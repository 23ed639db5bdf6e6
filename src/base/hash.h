// FNV-1a over 64 bits: fingerprints of models, tokenizers and texts, and seeds from names. Not for anything an adversary may choose.
//
// Layer: base. Pure functions. Values are written to files and decide random numbers: they never change.
//
//   uint64_t hash = fnv1a("first");
//   hash = fnv1a("second", hash);   // of "firstsecond"
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace retort {

inline constexpr uint64_t kFnvStart = 0xcbf29ce484222325ull;

// One unit more: a byte for FNV-1a proper; wider units hash large data faster.
constexpr uint64_t fnv1a_unit(uint64_t unit, uint64_t hash) { return (hash ^ unit) * 0x100000001b3ull; }

constexpr uint64_t fnv1a(std::string_view bytes, uint64_t hash = kFnvStart) {
  for (const char byte : bytes) hash = fnv1a_unit(static_cast<unsigned char>(byte), hash);
  return hash;
}

// A text and its end, so that ("a", "bc") and ("ab", "c") differ: 0xff is in no UTF-8 text.
constexpr uint64_t fnv1a_item(std::string_view text, uint64_t hash) { return fnv1a_unit(0xff, fnv1a(text, hash)); }

// Sixteen digits.
inline std::string hex(uint64_t value) {
  char digits[17];
  std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(value));
  return digits;
}

}  // namespace retort
