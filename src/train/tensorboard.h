// TensorBoard event files: scalars, nothing else.
//
// Layer: train, torch-free. Not thread-safe.
//
//   file   = record*
//   record = length:u64le  masked_crc(length):u32le  event[length]  masked_crc(event):u32le
//   event  = {1: wall time f64, 2: step i64, 3: file version | 5: {1: {1: tag, 2: value f32}*}}     (protocol buffers)
//   masked_crc(x) = rotate_right(crc32c(x), 15) + 0xa282ead8
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "train/append_file.h"

namespace retort::train {

uint32_t crc32c(std::string_view bytes);

class EventWriter {
 public:
  // Continues behind the first `keep` bytes; 0 starts the file.
  static Result<EventWriter> open(const std::string& path, uint64_t keep);

  Status scalars(int64_t step, double wall_time, const std::vector<std::pair<std::string, double>>& values);
  Status flush() { return file_.flush(); }
  uint64_t size() const { return file_.size(); }

 private:
  explicit EventWriter(AppendFile file) : file_(std::move(file)) {}
  Status record(const std::string& event);

  AppendFile file_;
};

}  // namespace retort::train
