// A file as read-only memory: mapped, never copied, and alive as long as anybody holds it.
//
// Layer: base. Thread-safe: immutable after opening. A file that another process shortens while it is mapped faults on
// access, as with every memory map; Retort itself replaces files only by renaming, which leaves open maps intact.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"

namespace retort {

class MappedFile {
 public:
  // A directory, a missing or an unreadable file is an error; an empty file is not.
  static Result<std::shared_ptr<const MappedFile>> open(const std::string& path);
  // A "file" in memory; `path` is what messages call it.
  static std::shared_ptr<const MappedFile> from_bytes(std::vector<std::byte> bytes, std::string path = "(memory)");

  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  const std::string& path() const { return path_; }

 private:
  MappedFile() = default;
  std::string path_;
  std::vector<std::byte> owned_;
  void* map_ = nullptr;
  std::span<const std::byte> bytes_;
};

// A whole small file (configs, templates, tokenizers): at most `limit` bytes.
Result<std::string> read_text_file(const std::string& path, size_t limit = size_t{256} << 20);

}  // namespace retort
