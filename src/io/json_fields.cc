#include "io/json_fields.h"

#include <cstdint>
#include <limits>
#include <optional>
#include <set>
#include <vector>

namespace retort {

using nlohmann::json;

namespace {

constexpr size_t kMostDepth = 64;

// Reads over a text before anything is built of it; false ends the reading.
class Inspector : public nlohmann::json_sax<json> {
 public:
  Inspector(const std::string& where, const JsonLimits& limits) : where_(where), limits_(limits) {}
  std::optional<Error> error;

  bool null() override { return value(); }
  bool boolean(bool) override { return value(); }
  bool number_integer(number_integer_t) override { return value(); }
  bool number_unsigned(number_unsigned_t) override { return value(); }
  bool number_float(number_float_t, const string_t&) override { return value(); }
  bool string(string_t&) override { return value(); }
  bool binary(binary_t&) override { return value(); }
  bool start_object(size_t) override { return begin(true); }
  bool start_array(size_t) override { return begin(false); }
  bool end_object() override { return end(); }
  bool end_array() override { return end(); }
  bool key(string_t& name) override {
    auto& keys = levels_.back();
    if (!keys.insert(name).second) return fail(": '", name.substr(0, 100), "' appears twice");
    key_work_ += keys.size();
    return key_work_ <= limits_.key_work || fail(": an object with too many keys");
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    constexpr int kNumberOverflow = 406;
    if (e.id == kNumberOverflow) return fail(": a number beyond what 64 bits hold at byte ", position);
    return fail(": not valid JSON at byte ", position);
  }

 private:
  template <class... Args>
  bool fail(const Args&... what) {
    error = invalid(where_, what...);
    return false;
  }
  bool value() { return ++values_ <= limits_.values || fail(": JSON of more than ", limits_.values, " values"); }
  bool begin(bool object) {
    if (levels_.empty() && !object) return fail(": expected a JSON object, found array");
    if (levels_.size() == kMostDepth) return fail(": JSON nested deeper than ", kMostDepth, " levels");
    levels_.emplace_back();
    return value();
  }
  bool end() {
    levels_.pop_back();
    return true;
  }

  const std::string& where_;
  const JsonLimits& limits_;
  std::vector<std::set<std::string>> levels_;  // the keys of each open object
  size_t values_ = 0, key_work_ = 0;
};

}  // namespace

Result<json> parse_json_object(const std::string& where, std::string_view text, const JsonLimits& limits) {
  Inspector inspector(where, limits);
  const bool whole = json::sax_parse(text, &inspector);
  if (inspector.error) return *inspector.error;
  if (!whole) return invalid(where, ": not valid JSON");
  json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!value.is_object()) return invalid(where, ": expected a JSON object, found ", value.type_name());
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
