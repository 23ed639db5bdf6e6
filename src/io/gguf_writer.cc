#include "io/gguf_writer.h"

#include <cstring>
#include <set>

#include "base/atomic_file.h"
#include "io/gguf_parser.h"

namespace retort {
namespace {

using gguf::Kind;

constexpr uint64_t kAlignment = 32;

template <class T>
void put(std::string& out, T value) {
  char raw[sizeof value];
  std::memcpy(raw, &value, sizeof value);
  out.append(raw, sizeof value);
}

void put_text(std::string& out, const std::string& text) {
  put<uint64_t>(out, text.size());
  out += text;
}

uint64_t padded(uint64_t size) { return (size + kAlignment - 1) / kAlignment * kAlignment; }

uint64_t tensor_bytes(const GgufSource& tensor) {
  int64_t count = 1;
  for (int64_t size : tensor.shape) count *= size;
  return static_cast<uint64_t>(row_bytes(tensor.type, count));
}

Status check_tensor(const GgufSource& tensor, std::set<std::string>& names) {
  if (!names.insert(tensor.name).second) return internal_error("tensor '", tensor.name, "' is written twice");
  const bool rank = !tensor.shape.empty() && tensor.shape.size() <= 4;
  if (!rank || tensor.shape.back() % tensor_type_info(tensor.type).block_values) {
    return internal_error("tensor '", tensor.name, "' cannot be stored as ", tensor_type_name(tensor.type), " in GGUF");
  }
  return {};
}

}  // namespace

void GgufMetadata::key(const std::string& name, uint32_t kind) {
  put_text(bytes_, name);
  put(bytes_, kind);
  ++count_;
}

void GgufMetadata::array(const std::string& name, uint32_t kind, uint64_t count) {
  key(name, static_cast<uint32_t>(Kind::kArray));
  put(bytes_, kind);
  put(bytes_, count);
}

void GgufMetadata::text(const std::string& name, const std::string& value) {
  key(name, static_cast<uint32_t>(Kind::kString));
  put_text(bytes_, value);
}

void GgufMetadata::u32(const std::string& name, uint32_t value) {
  key(name, static_cast<uint32_t>(Kind::kU32));
  put(bytes_, value);
}

void GgufMetadata::f32(const std::string& name, float value) {
  key(name, static_cast<uint32_t>(Kind::kF32));
  put(bytes_, value);
}

void GgufMetadata::boolean(const std::string& name, bool value) {
  key(name, static_cast<uint32_t>(Kind::kBool));
  put(bytes_, static_cast<uint8_t>(value));
}

void GgufMetadata::texts(const std::string& name, const std::vector<std::string>& values) {
  array(name, static_cast<uint32_t>(Kind::kString), values.size());
  for (const std::string& value : values) put_text(bytes_, value);
}

void GgufMetadata::i32s(const std::string& name, const std::vector<int32_t>& values) {
  array(name, static_cast<uint32_t>(Kind::kI32), values.size());
  for (int32_t value : values) put(bytes_, value);
}

void GgufMetadata::f32s(const std::string& name, const std::vector<float>& values) {
  array(name, static_cast<uint32_t>(Kind::kF32), values.size());
  for (float value : values) put(bytes_, value);
}

void GgufMetadata::booleans(const std::string& name, const std::vector<bool>& values) {
  array(name, static_cast<uint32_t>(Kind::kBool), values.size());
  for (bool value : values) put(bytes_, static_cast<uint8_t>(value));
}

Status write_gguf(const std::string& path, const GgufMetadata& metadata, const std::vector<GgufSource>& tensors) {
  std::string head = "GGUF";
  put<uint32_t>(head, 3);
  put<uint64_t>(head, tensors.size());
  put<uint64_t>(head, metadata.count());
  head += metadata.bytes();
  std::set<std::string> names;
  uint64_t at = 0;
  for (const GgufSource& tensor : tensors) {
    RETORT_RETURN_IF_ERROR(check_tensor(tensor, names));
    put_text(head, tensor.name);
    put(head, static_cast<uint32_t>(tensor.shape.size()));
    for (auto size = tensor.shape.rbegin(); size != tensor.shape.rend(); ++size) put(head, static_cast<uint64_t>(*size));
    put(head, static_cast<uint32_t>(tensor.type));
    put(head, at);
    at += padded(tensor_bytes(tensor));
  }
  head.resize(padded(head.size()), '\0');

  RETORT_TRY(auto file, AtomicFile::create(path, head.size() + at));
  RETORT_RETURN_IF_ERROR(file.write(head));
  for (const GgufSource& tensor : tensors) {
    RETORT_TRY(std::vector<std::byte> bytes, tensor.bytes());
    if (bytes.size() != tensor_bytes(tensor)) {
      return internal_error("tensor '", tensor.name, "' has ", bytes.size(), " bytes; its shape and type need ", tensor_bytes(tensor));
    }
    bytes.resize(padded(bytes.size()));
    RETORT_RETURN_IF_ERROR(file.write(bytes));
  }
  return file.commit();
}

}  // namespace retort
