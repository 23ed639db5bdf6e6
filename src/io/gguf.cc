#include "io/gguf.h"

#include <cstring>
#include <limits>

#include "io/gguf_parser.h"

namespace retort {

using gguf::Kind;

Result<GgufFile> GgufFile::open(const std::string& path) {
  RETORT_TRY(auto file, MappedFile::open(path));
  return parse(std::move(file));
}

std::vector<std::string> GgufFile::keys() const {
  std::vector<std::string> out;
  for (const auto& [key, value] : values_) out.push_back(key);
  return out;
}

const GgufTensor* GgufFile::find_tensor(const std::string& name) const {
  const auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

Result<const GgufFile::Value*> GgufFile::find(const std::string& key, bool array) const {
  const auto it = values_.find(key);
  if (it == values_.end()) return invalid(path(), ": metadata key '", key, "' is missing");
  if (it->second.array != array) {
    return invalid(path(), ": metadata key '", key, "' is ", it->second.array ? "an array" : "a single value",
                   "; expected ", array ? "an array" : "a single value");
  }
  return &it->second;
}

Error GgufFile::wrong_type(const std::string& key, const Value& value, const char* expected) const {
  return invalid(path(), ": metadata key '", key, "' holds ", gguf::kind_name(value.type), "; expected ", expected);
}

namespace {

template <class T>
T decode(std::span<const std::byte> raw, uint64_t index) {
  T value;
  std::memcpy(&value, raw.data() + index * sizeof(T), sizeof(T));
  return value;
}

}  // namespace

std::optional<int64_t> GgufFile::as_integer(const Value& v, uint64_t i) const {
  switch (static_cast<Kind>(v.type)) {
    case Kind::kU8:
      return decode<uint8_t>(v.raw, i);
    case Kind::kI8:
      return decode<int8_t>(v.raw, i);
    case Kind::kU16:
      return decode<uint16_t>(v.raw, i);
    case Kind::kI16:
      return decode<int16_t>(v.raw, i);
    case Kind::kU32:
      return decode<uint32_t>(v.raw, i);
    case Kind::kI32:
      return decode<int32_t>(v.raw, i);
    case Kind::kI64:
      return decode<int64_t>(v.raw, i);
    case Kind::kU64: {
      const auto value = decode<uint64_t>(v.raw, i);
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
      return static_cast<int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

std::optional<double> GgufFile::as_number(const Value& v, uint64_t i) const {
  if (static_cast<Kind>(v.type) == Kind::kF32) return decode<float>(v.raw, i);
  if (static_cast<Kind>(v.type) == Kind::kF64) return decode<double>(v.raw, i);
  const auto integer = as_integer(v, i);
  return integer ? std::optional<double>(static_cast<double>(*integer)) : std::nullopt;
}

Result<int64_t> GgufFile::integer(const std::string& key) const {
  RETORT_TRY(const Value* value, find(key, false));
  const auto result = as_integer(*value, 0);
  if (!result) return wrong_type(key, *value, "an integer below 2^63");
  return *result;
}

Result<double> GgufFile::number(const std::string& key) const {
  RETORT_TRY(const Value* value, find(key, false));
  const auto result = as_number(*value, 0);
  if (!result) return wrong_type(key, *value, "a number");
  return *result;
}

Result<bool> GgufFile::boolean(const std::string& key) const {
  RETORT_TRY(const Value* value, find(key, false));
  if (static_cast<Kind>(value->type) != Kind::kBool) return wrong_type(key, *value, "true or false");
  return decode<uint8_t>(value->raw, 0) != 0;
}

Result<std::string> GgufFile::text(const std::string& key) const {
  RETORT_TRY(const Value* value, find(key, false));
  if (static_cast<Kind>(value->type) != Kind::kString) return wrong_type(key, *value, "text");
  return std::string(value->strings.front());
}

Result<std::vector<std::string_view>> GgufFile::texts(const std::string& key) const {
  RETORT_TRY(const Value* value, find(key, true));
  if (static_cast<Kind>(value->type) != Kind::kString) return wrong_type(key, *value, "texts");
  return value->strings;
}

Result<std::vector<int64_t>> GgufFile::integers(const std::string& key) const {
  RETORT_TRY(const Value* value, find(key, true));
  std::vector<int64_t> out(value->count);
  for (uint64_t i = 0; i < value->count; ++i) {
    const auto element = as_integer(*value, i);
    if (!element) return wrong_type(key, *value, "integers below 2^63");
    out[i] = *element;
  }
  return out;
}

Result<std::vector<double>> GgufFile::numbers(const std::string& key) const {
  RETORT_TRY(const Value* value, find(key, true));
  std::vector<double> out(value->count);
  for (uint64_t i = 0; i < value->count; ++i) {
    const auto element = as_number(*value, i);
    if (!element) return wrong_type(key, *value, "numbers");
    out[i] = *element;
  }
  return out;
}

Result<int64_t> GgufFile::integer_or(const std::string& key, int64_t fallback) const {
  return has(key) ? integer(key) : Result<int64_t>(fallback);
}
Result<double> GgufFile::number_or(const std::string& key, double fallback) const {
  return has(key) ? number(key) : Result<double>(fallback);
}
Result<bool> GgufFile::boolean_or(const std::string& key, bool fallback) const {
  return has(key) ? boolean(key) : Result<bool>(fallback);
}
Result<std::string> GgufFile::text_or(const std::string& key, const std::string& fallback) const {
  return has(key) ? text(key) : Result<std::string>(fallback);
}

}  // namespace retort
