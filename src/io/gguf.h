// Reads GGUF v2 and v3: metadata and a table of tensors, all pointing into the mapped file.
//
// Layer: io. Thread-safe: immutable after opening. Views live as long as the GgufFile or the MappedFile behind it.
// Nothing in the file is trusted: counts, lengths, types, offsets and overlaps are checked before use.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/mapped_file.h"
#include "io/quant_blocks.h"

namespace retort {

struct GgufTensor {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<int64_t> shape;        // outermost first: a matrix is [out, in]
  std::span<const std::byte> bytes;  // rows of the last dimension, contiguous
};

class GgufFile {
 public:
  static Result<GgufFile> open(const std::string& path);
  static Result<GgufFile> parse(std::shared_ptr<const MappedFile> file);

  const std::string& path() const { return file_->path(); }
  const std::shared_ptr<const MappedFile>& file() const { return file_; }

  bool has(const std::string& key) const { return values_.count(key) > 0; }
  std::vector<std::string> keys() const;

  // Required keys: an error names the key when it is missing or of another type. Integers of every width are one kind.
  Result<int64_t> integer(const std::string& key) const;
  Result<double> number(const std::string& key) const;  // a float, or an integer
  Result<bool> boolean(const std::string& key) const;
  Result<std::string> text(const std::string& key) const;
  Result<std::vector<std::string_view>> texts(const std::string& key) const;
  Result<std::vector<int64_t>> integers(const std::string& key) const;
  Result<std::vector<double>> numbers(const std::string& key) const;
  // The same with a value for a missing key; a key of the wrong type is still an error.
  Result<int64_t> integer_or(const std::string& key, int64_t fallback) const;
  Result<double> number_or(const std::string& key, double fallback) const;
  Result<bool> boolean_or(const std::string& key, bool fallback) const;
  Result<std::string> text_or(const std::string& key, const std::string& fallback) const;

  const std::vector<GgufTensor>& tensors() const { return tensors_; }  // as ordered in the file
  const GgufTensor* find_tensor(const std::string& name) const;        // null: none

 private:
  friend class GgufParser;
  // Scalars and arrays of scalars stay encoded (little-endian); strings are views.
  struct Value {
    uint32_t type = 0;  // of the elements
    bool array = false;
    uint64_t count = 1;
    std::span<const std::byte> raw;
    std::vector<std::string_view> strings;
  };
  GgufFile() = default;
  Result<const Value*> find(const std::string& key, bool array) const;
  Error wrong_type(const std::string& key, const Value& value, const char* expected) const;
  std::optional<int64_t> as_integer(const Value& value, uint64_t index) const;
  std::optional<double> as_number(const Value& value, uint64_t index) const;

  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, Value> values_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t> tensor_index_;
};

}  // namespace retort
