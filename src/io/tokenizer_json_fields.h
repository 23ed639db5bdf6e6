// Checked access to members of a JSON object: a wrong type is an error that names the place, never an exception.
//
// Layer: io. Thread-safe: no state.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"

namespace retort {

inline const nlohmann::json* json_member(const nlohmann::json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() ? nullptr : &*it;
}

inline Result<std::string> json_string(const nlohmann::json& object, const char* key, const std::string& where) {
  const auto* value = json_member(object, key);
  if (value == nullptr || !value->is_string()) return invalid(where, ".", key, ": a string is expected");
  return value->get<std::string>();
}

inline Result<const nlohmann::json*> json_array(const nlohmann::json& object, const char* key, const std::string& where) {
  const auto* value = json_member(object, key);
  if (value == nullptr || !value->is_array()) return invalid(where, ".", key, ": an array is expected");
  return value;
}

// Absent and null mean `fallback`.
inline Result<bool> json_bool(const nlohmann::json& object, const char* key, bool fallback, const std::string& where) {
  const auto* value = json_member(object, key);
  if (value == nullptr || value->is_null()) return fallback;
  if (!value->is_boolean()) return invalid(where, ".", key, ": true or false is expected");
  return value->get<bool>();
}

// Absent and null mean the empty string.
inline Result<std::string> json_string_or_empty(const nlohmann::json& object, const char* key, const std::string& where) {
  const auto* value = json_member(object, key);
  if (value == nullptr || value->is_null()) return std::string();
  return json_string(object, key, where);
}

}  // namespace retort
