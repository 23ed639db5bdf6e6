// SHA-256 (FIPS 180-4), where a name for some bytes must be the same one that other programs give them.
//
// Layer: base. Thread-safe: a pure function.
#pragma once

#include <string>
#include <string_view>

namespace retort {

std::string sha256_hex(std::string_view bytes);

}  // namespace retort
