// Any bytes as a safetensors file: read or refused, never a crash. What is read is walked whole.
#include <cstdint>

#include "io/safetensors.h"
#include "io/weights.h"

using namespace retort;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  const auto file = SafetensorsFile::parse(MappedFile::from_bytes({bytes, bytes + size}));
  if (!file.ok()) return 0;
  for (const auto& [name, tensor] : file->tensors()) {
    const auto type = tensor.weight_type();
    if (type) (void)read_f32({name, *type, tensor.shape, tensor.bytes.data()}).ok();
  }
  return 0;
}
