#include "base/format.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace retort {

std::string format_fixed(double value, int digits) {
  if (!std::isfinite(value)) return "-";
  char buffer[400];
  std::snprintf(buffer, sizeof buffer, "%.*f", digits, value);
  return buffer;
}

std::string format_significant(double value, int digits) {
  if (!std::isfinite(value)) return "-";
  if (value == 0) return "0";
  const int magnitude = int(std::floor(std::log10(std::fabs(value))));
  return format_fixed(value, std::clamp(digits - 1 - magnitude, 0, 12));
}

std::string format_count(int64_t value) {
  std::string digits = std::to_string(value);
  const int first = value < 0 ? 1 : 0;
  for (int at = int(digits.size()) - 3; at > first; at -= 3) digits.insert(size_t(at), ",");
  return digits;
}

std::string format_bytes(double bytes) {
  static constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  if (!std::isfinite(bytes)) return "-";
  int unit = 0;
  while (std::fabs(bytes) >= 999.5 && unit < 5) {
    bytes /= 1000;
    ++unit;
  }
  return (unit == 0 ? format_fixed(bytes, 0) : format_significant(bytes, 3)) + " " + kUnits[unit];
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "-";
  if (seconds < 59.95) return format_fixed(seconds, 1) + " s";
  const int64_t whole = int64_t(std::llround(std::min(seconds, 1e12)));
  char buffer[64];
  if (whole < 3600) {
    std::snprintf(buffer, sizeof buffer, "%d min %02d s", int(whole / 60), int(whole % 60));
  } else {
    std::snprintf(buffer, sizeof buffer, "%lld h %02d min", static_cast<long long>(whole / 3600), int(whole % 3600 / 60));
  }
  return buffer;
}

}  // namespace retort
