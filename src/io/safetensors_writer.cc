#include <algorithm>
#include <set>

#include <nlohmann/json.hpp>

#include "base/atomic_file.h"
#include "io/quant_encode.h"
#include "io/safetensors.h"

namespace retort {
namespace {

// nlohmann's ordered_json keeps the tensors in the order of their data.
using Json = nlohmann::ordered_json;

int64_t element_bytes(const std::string& dtype) {
  if (dtype == "BOOL" || dtype == "U8" || dtype == "I8") return 1;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  return 0;
}

}  // namespace

SafeTensorSource SafeTensorSource::from_f32(std::string name, std::vector<int64_t> shape, TensorType stored,
                                            std::function<Result<std::vector<float>>()> values) {
  return {std::move(name), tensor_type_name(stored), std::move(shape),
          [stored, values = std::move(values)]() -> Result<std::vector<std::byte>> {
            RETORT_TRY(const std::vector<float> floats, values());
            return encode_values(stored, floats);
          }};
}

Status write_safetensors(const std::string& path, const std::vector<SafeTensorSource>& tensors,
                         std::map<std::string, std::string> metadata) {
  metadata.emplace("format", "pt");
  Json header = {{"__metadata__", metadata}};
  std::set<std::string> names;
  std::vector<uint64_t> sizes;
  uint64_t at = 0;
  // Wide elements first, so that every tensor is aligned to its element.
  std::vector<const SafeTensorSource*> order;
  for (const SafeTensorSource& t : tensors) order.push_back(&t);
  std::stable_sort(order.begin(), order.end(),
                   [](auto* a, auto* b) { return element_bytes(a->dtype) > element_bytes(b->dtype); });
  for (const SafeTensorSource* source : order) {
    const SafeTensorSource& t = *source;
    const int64_t element = element_bytes(t.dtype);
    if (element == 0) return internal_error("tensor '", t.name, "' cannot be stored as ", t.dtype, " in safetensors");
    if (!names.insert(t.name).second) return internal_error("tensor '", t.name, "' is written twice");
    uint64_t size = static_cast<uint64_t>(element);
    for (int64_t s : t.shape) size *= static_cast<uint64_t>(s);
    header[t.name] = {{"dtype", t.dtype}, {"shape", t.shape}, {"data_offsets", {at, at + size}}};
    sizes.push_back(size);
    at += size;
  }
  std::string text = header.dump(-1, ' ', false, Json::error_handler_t::replace);
  text.append((8 - text.size() % 8) % 8, ' ');  // tensors start aligned to 8 bytes, as readers of the format expect

  const uint64_t length = text.size();
  RETORT_TRY(auto file, AtomicFile::create(path, sizeof length + length + at));
  RETORT_RETURN_IF_ERROR(file.write(std::as_bytes(std::span(&length, 1))));
  RETORT_RETURN_IF_ERROR(file.write(text));
  for (size_t i = 0; i < order.size(); ++i) {
    RETORT_TRY(const std::vector<std::byte> bytes, order[i]->bytes());
    if (bytes.size() != sizes[i]) {
      return internal_error("tensor '", order[i]->name, "' has ", bytes.size(), " bytes; its shape and dtype need ",
                            sizes[i]);
    }
    RETORT_RETURN_IF_ERROR(file.write(bytes));
  }
  return file.commit();
}

}  // namespace retort
