// Writes GGUF v3: metadata and tensors, aligned to 32 bytes, whole or not at all.
//
// Layer: io. Not thread-safe: one writer each.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/quant_blocks.h"

namespace retort {

// Key-value pairs in the order they were added. A key that is added twice is a bug.
class GgufMetadata {
 public:
  void text(const std::string& key, const std::string& value);
  void u32(const std::string& key, uint32_t value);
  void f32(const std::string& key, float value);
  void boolean(const std::string& key, bool value);
  void texts(const std::string& key, const std::vector<std::string>& values);
  void i32s(const std::string& key, const std::vector<int32_t>& values);
  void f32s(const std::string& key, const std::vector<float>& values);
  void booleans(const std::string& key, const std::vector<bool>& values);

  uint64_t count() const { return count_; }
  const std::string& bytes() const { return bytes_; }

 private:
  void key(const std::string& name, uint32_t kind);
  void array(const std::string& name, uint32_t kind, uint64_t count);

  std::string bytes_;
  uint64_t count_ = 0;
};

// A tensor to write. `bytes` is asked for once, when its turn comes, so one tensor at a time is in memory.
struct GgufSource {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<int64_t> shape;  // outermost first; the last size is a multiple of the type's block
  std::function<Result<std::vector<std::byte>>()> bytes;
};

Status write_gguf(const std::string& path, const GgufMetadata& metadata, const std::vector<GgufSource>& tensors);

}  // namespace retort
