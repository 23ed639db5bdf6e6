#include "io/safetensors.h"

#include <algorithm>
#include <cstring>

#include "io/json_fields.h"

namespace retort {
namespace {

using nlohmann::json;

constexpr uint64_t kMostHeaderBytes = 100'000'000;
constexpr size_t kMostDimensions = 8;
constexpr uint64_t kMostValues = uint64_t{1} << 56;  // times 8 bytes still fits into 64 bits

struct Dtype {
  const char* name;
  int bytes;
};
constexpr Dtype kDtypes[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1}, {"F8_E4M3", 1},
                             {"I16", 2},  {"U16", 2}, {"F16", 2}, {"BF16", 2},    {"I32", 4},
                             {"U32", 4},  {"F32", 4}, {"F64", 8}, {"I64", 8},     {"U64", 8}};

int dtype_bytes(const std::string& name) {
  for (const Dtype& d : kDtypes) {
    if (name == d.name) return d.bytes;
  }
  return 0;
}

std::optional<uint64_t> as_u64(const json& value) {
  if (value.is_number_unsigned()) return value.get<uint64_t>();
  return std::nullopt;
}

struct Span {
  uint64_t begin, end;
  SafeTensor tensor;
};

Result<Span> parse_entry(const std::string& where, const std::string& name, const json& entry, uint64_t data_bytes) {
  const auto bad = [&](const auto&... what) { return invalid(where, ": tensor '", name, "': ", what...); };
  if (!entry.is_object() || !entry.contains("dtype") || !entry.contains("shape") || !entry.contains("data_offsets")) {
    return bad("expected an object with dtype, shape and data_offsets");
  }
  Span span{0, 0, {name, "", {}, {}}};
  if (!entry["dtype"].is_string()) return bad("dtype is not text");
  span.tensor.dtype = entry["dtype"].get<std::string>();
  const int element = dtype_bytes(span.tensor.dtype);
  if (element == 0) return bad("unknown dtype '", span.tensor.dtype, "'");
  if (!entry["shape"].is_array() || entry["shape"].size() > kMostDimensions)
    return bad("shape is not a list of at most ", kMostDimensions, " sizes");
  uint64_t count = 1;
  for (const json& item : entry["shape"]) {
    const auto size = as_u64(item);
    if (!size) return bad("shape holds ", item.type_name(), "; expected whole numbers from 0");
    if (*size > kMostValues || (*size > 0 && count > kMostValues / *size))
      return bad("shape is larger than any memory");
    count *= *size;
    span.tensor.shape.push_back(static_cast<int64_t>(*size));
  }
  const json& offsets = entry["data_offsets"];
  const auto begin = offsets.is_array() && offsets.size() == 2 ? as_u64(offsets[0]) : std::nullopt;
  const auto end = offsets.is_array() && offsets.size() == 2 ? as_u64(offsets[1]) : std::nullopt;
  if (!begin || !end || *begin > *end) return bad("data_offsets is not [begin, end]");
  if (*end > data_bytes)
    return bad("ends at byte ", *end, " of the data, which has ", data_bytes, " bytes (cut short?)");
  if (*end - *begin != count * static_cast<uint64_t>(element)) {
    return bad("has ", *end - *begin, " bytes; its shape and dtype ", span.tensor.dtype, " need ",
               count * static_cast<uint64_t>(element));
  }
  span.begin = *begin;
  span.end = *end;
  return span;
}

Status check_cover(const std::string& where, std::vector<Span>& spans, uint64_t data_bytes) {
  std::sort(spans.begin(), spans.end(),
            [](const Span& a, const Span& b) { return std::pair(a.begin, a.end) < std::pair(b.begin, b.end); });
  uint64_t covered = 0;
  for (const Span& s : spans) {
    if (s.begin < covered)
      return invalid(where, ": tensor '", s.tensor.name, "' overlaps the one before it at byte ", s.begin,
                     " of the data");
    if (s.begin > covered)
      return invalid(where, ": bytes ", covered, " to ", s.begin, " of the data belong to no tensor");
    covered = s.end;
  }
  if (covered != data_bytes)
    return invalid(where, ": the tensors cover ", covered, " of ", data_bytes, " bytes of data");
  return {};
}

}  // namespace

std::optional<TensorType> SafeTensor::weight_type() const {
  if (dtype == "F32") return TensorType::kF32;
  if (dtype == "F16") return TensorType::kF16;
  if (dtype == "BF16") return TensorType::kBF16;
  return std::nullopt;
}

Result<SafetensorsFile> SafetensorsFile::open(const std::string& path) {
  RETORT_TRY(auto file, MappedFile::open(path));
  return parse(std::move(file));
}

Result<SafetensorsFile> SafetensorsFile::parse(std::shared_ptr<const MappedFile> file) {
  const auto bytes = file->bytes();
  const std::string& where = file->path();
  if (bytes.size() < sizeof(uint64_t)) return invalid(where, ": ", bytes.size(), " bytes are no safetensors file");
  uint64_t length = 0;
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > kMostHeaderBytes)
    return invalid(where, ": claims a header of ", length, " bytes; not a safetensors file (at most ", kMostHeaderBytes,
                   ")");
  if (length > bytes.size() - sizeof length)
    return invalid(where, ": cut short: a header of ", length, " bytes in a file of ", bytes.size());
  RETORT_TRY(
      const json header,
      parse_json_object(where + " (header)", {reinterpret_cast<const char*>(bytes.data()) + sizeof length, length}));
  const auto data = bytes.subspan(sizeof length + length);

  SafetensorsFile out;
  std::vector<Span> spans;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) return invalid(where, ": __metadata__ is not an object");
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) return invalid(where, ": __metadata__ '", key, "' is not text");
        out.metadata_[key] = value.get<std::string>();
      }
      continue;
    }
    RETORT_TRY(Span span, parse_entry(where, name, entry, data.size()));
    span.tensor.bytes = data.subspan(span.begin, span.end - span.begin);
    spans.push_back(std::move(span));
  }
  RETORT_RETURN_IF_ERROR(check_cover(where, spans, data.size()));
  for (Span& span : spans) {
    std::string name = span.tensor.name;
    out.tensors_.emplace(std::move(name), std::move(span.tensor));
  }
  out.file_ = std::move(file);
  return out;
}

}  // namespace retort
