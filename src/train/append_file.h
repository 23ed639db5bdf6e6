// A log that a resumed run continues: cut back to what the checkpoint knew, then appended to.
//
// Layer: train, torch-free. Not thread-safe.
#pragma once

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

#include "base/error.h"

namespace retort::train {

class AppendFile {
 public:
  // Keeps the file's first `keep` bytes (fewer when it is shorter); creates it.
  static Result<AppendFile> open(const std::string& path, uint64_t keep);

  Status write(std::string_view bytes);
  Status flush();
  uint64_t size() const { return size_; }

 private:
  AppendFile(std::FILE* file, std::string path, uint64_t size) : file_(file, std::fclose), path_(std::move(path)), size_(size) {}
  Error failure() const;

  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  std::string path_;
  uint64_t size_ = 0;
};

}  // namespace retort::train
