#include "base/suggest.h"

#include <algorithm>
#include <numeric>

namespace retort {
namespace {

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string nearest_name(std::string_view given, const std::vector<std::string>& known) {
  given = given.substr(0, 64);  // a name is short; a long argument must not cost quadratic time
  size_t best = std::max<size_t>(1, given.size() / 3) + 1;
  std::string nearest;
  for (const auto& name : known) {
    const bool prefix = given.size() >= 3 && name.size() > given.size() && name.compare(0, given.size(), given) == 0;
    const size_t distance = prefix ? 1 : edit_distance(given, name);
    if (distance < best) {
      best = distance;
      nearest = name;
    }
  }
  return nearest;
}

std::string suggestion(std::string_view given, const std::vector<std::string>& known) {
  if (auto name = nearest_name(given, known); !name.empty()) return "; did you mean '" + name + "'?";
  std::string list;
  for (const auto& name : known) list += (list.empty() ? "; known: " : ", ") + name;
  return list;
}

}  // namespace retort
