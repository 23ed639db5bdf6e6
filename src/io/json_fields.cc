#include "io/json_fields.h"

#include <cstdint>
#include <limits>
#include <set>

namespace retort {

using nlohmann::json;

namespace {
constexpr int kMostDepth = 64;
}

Result<json> parse_json_object(const std::string& where, std::string_view text) {
  std::set<std::string> keys;
  std::string twice;
  bool too_deep = false;
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::key && depth == 1 && !keys.insert(value.get<std::string>()).second)
      twice = value.get<std::string>();
    too_deep = too_deep || depth > kMostDepth;
    return !too_deep;
  };
  json value = json::parse(text, watch, /*allow_exceptions=*/false);
  if (too_deep) return invalid(where, ": JSON nested deeper than ", kMostDepth, " levels");
  if (value.is_discarded()) return invalid(where, ": not valid JSON");
  if (!value.is_object()) return invalid(where, ": expected a JSON object, found ", value.type_name());
  if (!twice.empty()) return invalid(where, ": '", twice, "' appears twice");
  return value;
}

Result<const json*> JsonFields::find(const char* key) const {
  if (!object_->contains(key)) return bad("key '", key, "' is missing");
  return &object_->at(key);
}

Error JsonFields::wrong_type(const char* key, const json& value, const char* expected) const {
  std::string shown = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (shown.size() > 40) shown = shown.substr(0, 40) + "...";
  return bad("key '", key, "' is ", shown, "; expected ", expected);
}

Result<int> JsonFields::integer(const char* key) const {
  RETORT_TRY(const json* value, find(key));
  if (!value->is_number_integer()) return wrong_type(key, *value, "a whole number");
  const bool fits = value->is_number_unsigned() ? value->get<uint64_t>() <= std::numeric_limits<int>::max()
                                                : value->get<int64_t>() >= std::numeric_limits<int>::min();
  if (!fits) return wrong_type(key, *value, "a whole number of at most 31 bits");
  return value->get<int>();
}

Result<int64_t> JsonFields::whole(const char* key) const {
  RETORT_TRY(const json* value, find(key));
  const bool fits = value->is_number_integer() && (!value->is_number_unsigned() || value->get<uint64_t>() <= uint64_t(INT64_MAX));
  if (!fits) return wrong_type(key, *value, "a whole number of at most 63 bits");
  return value->get<int64_t>();
}

Result<double> JsonFields::number(const char* key) const {
  RETORT_TRY(const json* value, find(key));
  if (!value->is_number()) return wrong_type(key, *value, "a number");
  return value->get<double>();
}

Result<bool> JsonFields::boolean(const char* key) const {
  RETORT_TRY(const json* value, find(key));
  if (!value->is_boolean()) return wrong_type(key, *value, "true or false");
  return value->get<bool>();
}

Result<std::string> JsonFields::text(const char* key) const {
  RETORT_TRY(const json* value, find(key));
  if (!value->is_string()) return wrong_type(key, *value, "text");
  return value->get<std::string>();
}

Result<JsonFields> JsonFields::object(const char* key) const {
  RETORT_TRY(const json* value, find(key));
  if (!value->is_object()) return wrong_type(key, *value, "an object");
  return JsonFields(*value, cat(where_, ": ", key));
}

Result<const json*> JsonFields::array(const char* key) const {
  RETORT_TRY(const json* value, find(key));
  if (!value->is_array()) return wrong_type(key, *value, "a list");
  return value;
}

}  // namespace retort
