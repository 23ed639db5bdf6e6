// Typed reading of a JSON object's keys, with errors that name the file, the key, what it is and what it should be.
//
// Layer: io. Values only; the object must outlive the reader.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace retort {

struct JsonLimits {
  size_t values = size_t(1) << 22;  // some 16 bytes of memory each
  // The sum over all keys of the keys before them in their objects: what an ordered_json, which looks through them, would compare.
  size_t key_work = SIZE_MAX;
};

// Parses `text` as a JSON object. Repeated keys in one object are an error: two readers could understand them in two ways. Nesting is
// bounded, since copying and printing values recurse. Time and memory are linear in the text.
Result<nlohmann::json> parse_json_object(const std::string& where, std::string_view text, const JsonLimits& limits = {});

class JsonFields {
 public:
  // `where` starts every message: "models/x/config.json" or "models/x/config.json: rope_parameters".
  JsonFields(const nlohmann::json& object, std::string where) : object_(&object), where_(std::move(where)) {}

  const std::string& where() const { return where_; }
  // Present and not null.
  bool has(const char* key) const { return object_->contains(key) && !object_->at(key).is_null(); }
  const nlohmann::json& at(const char* key) const { return object_->at(key); }

  Result<int> integer(const char* key) const;
  Result<int64_t> whole(const char* key) const;   // up to 63 bits
  Result<double> number(const char* key) const;
  Result<bool> boolean(const char* key) const;
  Result<std::string> text(const char* key) const;
  Result<JsonFields> object(const char* key) const;
  Result<const nlohmann::json*> array(const char* key) const;

  Result<int> integer_or(const char* key, int fallback) const {
    return has(key) ? integer(key) : Result<int>(fallback);
  }
  Result<double> number_or(const char* key, double fallback) const {
    return has(key) ? number(key) : Result<double>(fallback);
  }
  Result<bool> boolean_or(const char* key, bool fallback) const {
    return has(key) ? boolean(key) : Result<bool>(fallback);
  }
  Result<std::string> text_or(const char* key, const std::string& fallback) const {
    return has(key) ? text(key) : Result<std::string>(fallback);
  }

  template <class... Args>
  Error bad(const Args&... what) const {
    return invalid(where_, ": ", what...);
  }

 private:
  Result<const nlohmann::json*> find(const char* key) const;
  Error wrong_type(const char* key, const nlohmann::json& value, const char* expected) const;

  const nlohmann::json* object_;
  std::string where_;
};

}  // namespace retort
