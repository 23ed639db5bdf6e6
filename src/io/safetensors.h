// Reads and writes safetensors: a table of tensors that point into the mapped file.
//
// Layer: io. Reading is thread-safe after opening. Nothing in the file is trusted.
//
//   file = length:u64 header:json data      header = {"__metadata__": {text: text}, name: {"dtype", "shape",
//   "data_offsets"}} Tensors cover the data without overlaps and without holes.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "io/quant_blocks.h"

namespace retort {

struct SafeTensor {
  std::string name;
  std::string dtype;  // as in the file: "BF16"
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;

  // Weights are F32, F16 or BF16; nullopt for any other dtype.
  std::optional<TensorType> weight_type() const;
};

class SafetensorsFile {
 public:
  static Result<SafetensorsFile> open(const std::string& path);
  static Result<SafetensorsFile> parse(std::shared_ptr<const MappedFile> file);

  const std::string& path() const { return file_->path(); }
  const std::map<std::string, SafeTensor>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  SafetensorsFile() = default;
  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, SafeTensor> tensors_;
  std::map<std::string, std::string> metadata_;
};

// A tensor to write. `bytes` is asked for once, when its turn comes, so one tensor at a time is in memory.
struct SafeTensorSource {
  std::string name;
  std::string dtype;
  std::vector<int64_t> shape;
  std::function<Result<std::vector<std::byte>>()> bytes;

  // Values given in f32, stored as F32, BF16 or F16.
  static SafeTensorSource from_f32(std::string name, std::vector<int64_t> shape, TensorType stored,
                                   std::function<Result<std::vector<float>>()> values);
};

// Atomic. `__metadata__` gets "format": "pt" unless `metadata` has it.
Status write_safetensors(const std::string& path, const std::vector<SafeTensorSource>& tensors,
                         std::map<std::string, std::string> metadata = {});

}  // namespace retort
