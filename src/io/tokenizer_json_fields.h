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

// A pipeline of a tokenizer.json is one step, or {"type": "Sequence", LIST: [step, ...]}, one in another. Calls
// add(type, step, where) for every step that is no sequence, in order; the first error ends it.
template <class Add>
Status for_each_step(const nlohmann::json& spec, const char* list, const std::string& where, const Add& add, int depth = 0) {
  constexpr int kMostDepth = 16;
  RETORT_TRY(const std::string type, json_string(spec, "type", where));
  if (depth > kMostDepth) return invalid(where, ": nested more than ", kMostDepth, " deep");
  if (type != "Sequence") return add(type, spec, where);
  RETORT_TRY(const auto* steps, json_array(spec, list, where));
  for (size_t i = 0; i < steps->size(); ++i) {
    RETORT_RETURN_IF_ERROR(for_each_step((*steps)[i], list, cat(where, ".", list, "[", i, "]"), add, depth + 1));
  }
  return {};
}

// Replace: {"pattern": {"String": from}, "content": to}.
inline Status read_replacement(const nlohmann::json& spec, const std::string& where, std::string& from, std::string& to) {
  const nlohmann::json* pattern = json_member(spec, "pattern");
  if (pattern == nullptr || !pattern->contains("String")) {
    return invalid(where, ".pattern: Replace is supported with a String pattern only");
  }
  RETORT_TRY(from, json_string(*pattern, "String", where + ".pattern"));
  RETORT_TRY(to, json_string(spec, "content", where));
  return {};
}

}  // namespace retort
