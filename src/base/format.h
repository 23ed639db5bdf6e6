// Numbers as people read them: 1,234,567 · 92.7 MB · 3 min 04 s. For tables and progress lines, never for --json.
//
// Layer: base. Thread-safe: values only.
#pragma once

#include <cstdint>
#include <string>

namespace retort {

std::string format_count(int64_t value);                     // 49,152
std::string format_bytes(double bytes);                      // decimal units: 92.7 MB
std::string format_duration(double seconds);                 // 8.1 s, 3 min 04 s, 1 h 02 min
std::string format_fixed(double value, int digits);          // 1.230; "-" for a value that is not finite
std::string format_significant(double value, int digits);    // 1.23, 218, 0.0042; never exponents

}  // namespace retort
