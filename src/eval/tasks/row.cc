#include <charconv>

#include "eval/tasks/task.h"

namespace retort::harness {

Result<const Json*> Row::find(const char* key) const {
  const auto found = value_.find(key);
  if (found == value_.end()) return bad("key '", key, "' is missing");
  return &*found;
}

Result<std::string> Row::text(const char* key) const {
  RETORT_TRY(const Json* found, find(key));
  if (!found->is_string()) return bad("key '", key, "' must be a string");
  return found->get<std::string>();
}

Result<std::vector<std::string>> Row::texts(const char* key) const {
  RETORT_TRY(const Json* found, find(key));
  if (!found->is_array()) return bad("key '", key, "' must be a list of strings");
  std::vector<std::string> out;
  for (const Json& item : *found) {
    if (!item.is_string()) return bad("key '", key, "' must be a list of strings");
    out.push_back(item.get<std::string>());
  }
  return out;
}

Result<std::vector<int>> Row::integers(const char* key) const {
  RETORT_TRY(const Json* found, find(key));
  if (!found->is_array()) return bad("key '", key, "' must be a list of whole numbers");
  std::vector<int> out;
  for (const Json& item : *found) {
    if (!item.is_number_integer()) return bad("key '", key, "' must be a list of whole numbers");
    out.push_back(item.get<int>());
  }
  return out;
}

Result<Row> Row::object(const char* key) const {
  RETORT_TRY(const Json* found, find(key));
  if (!found->is_object()) return bad("key '", key, "' must be an object");
  return Row(*found, cat(where_, ": ", key));
}

Result<int> Row::index(const char* key, size_t bound) const {
  RETORT_TRY(const Json* found, find(key));
  const std::string digits = found->is_string() ? found->get<std::string>() : found->is_number_integer() ? found->dump() : "";
  size_t value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  if (digits.empty() || error != std::errc() || end != digits.data() + digits.size() || value >= bound) {
    return bad("key '", key, "' must be a whole number from 0 to ", bound - 1);
  }
  return int(value);
}

}  // namespace retort::harness
