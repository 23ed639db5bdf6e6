// Any bytes as a GGUF file: read or refused, never a crash. What is read is walked whole.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "io/gguf_config.h"
#include "io/model_files.h"

using namespace retort;

namespace {

void walk_metadata(const GgufFile& file) {
  for (const std::string& key : file.keys()) {
    (void)file.integer(key).ok();
    (void)file.number(key).ok();
    (void)file.boolean(key).ok();
    (void)file.text(key).ok();
    (void)file.texts(key).ok();
    (void)file.integers(key).ok();
    (void)file.numbers(key).ok();
  }
}

void walk_tensors(const GgufFile& file) {
  std::vector<float> row;
  for (const GgufTensor& tensor : file.tensors()) {
    row.resize(static_cast<size_t>(tensor.shape.back()));
    const auto bytes = row_bytes(tensor.type, tensor.shape.back());
    const std::byte* last = tensor.bytes.data() + tensor.bytes.size() - bytes;
    dequantise_row(tensor.type, last, row.data(), tensor.shape.back());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  auto parsed = GgufFile::parse(MappedFile::from_bytes({bytes, bytes + size}));
  if (!parsed.ok()) return 0;
  const auto file = std::make_shared<const GgufFile>(std::move(*parsed));
  walk_metadata(*file);
  walk_tensors(*file);
  const auto config = config_from_gguf(*file);
  if (!config.ok()) return 0;
  const auto weights = gguf_weights(file, *config);
  if (!check_weights(*config, *weights).ok()) return 0;
  for (const std::string& name : weights->names()) {
    const auto view = weights->tensor(name);
    if (view.ok()) (void)read_f32(*view).ok();
  }
  return 0;
}
