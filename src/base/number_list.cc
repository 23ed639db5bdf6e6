#include "base/number_list.h"

#include <algorithm>
#include <sstream>

namespace retort {
namespace {

constexpr size_t kMostNumbers = 100'000;  // of five digits there are no more

int number(const std::string& digits) {
  const bool good = !digits.empty() && digits.size() < 6 && digits.find_first_not_of("0123456789") == std::string::npos;
  return good ? std::stoi(digits) : -1;
}

}  // namespace

std::optional<std::vector<int>> parse_number_list(const std::string& text) {
  std::vector<int> out;
  std::stringstream split(text);
  for (std::string item; std::getline(split, item, ',');) {
    item.erase(std::remove(item.begin(), item.end(), ' '), item.end());
    const auto dash = item.find('-');
    const int first = number(item.substr(0, dash)), last = dash == std::string::npos ? first : number(item.substr(dash + 1));
    if (first < 0 || last < first || out.size() + size_t(last - first) >= kMostNumbers) return std::nullopt;
    for (int n = first; n <= last; ++n) out.push_back(n);
  }
  if (out.empty()) return std::nullopt;
  return out;
}

}  // namespace retort
