// Output that appears whole or not at all: written beside its name, flushed to the disk, then renamed.
//
// Layer: base. Not thread-safe: one writer each. What is not committed is removed by the destructor; what a killed
// process left (`NAME.tmp.<pid>` of a process that is gone) is removed by the next writer of the same name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"

namespace retort {

class AtomicFile {
 public:
  // `expected_bytes` makes a full disk's message say how much is needed; 0: unknown.
  static Result<AtomicFile> create(const std::string& path, uint64_t expected_bytes = 0);

  AtomicFile(AtomicFile&& other) noexcept;
  AtomicFile& operator=(AtomicFile&&) = delete;
  ~AtomicFile();

  Status write(std::span<const std::byte> bytes);
  Status write(std::string_view text) { return write(std::as_bytes(std::span(text.data(), text.size()))); }
  // The file is at `path` from now on.
  Status commit();

 private:
  AtomicFile() = default;
  Error failure(int code) const;

  std::string path_, temporary_;
  int fd_ = -1;
  uint64_t written_ = 0, expected_ = 0;
};

// The same for a folder: fill `path()`, then commit. A folder that is already there is replaced whole.
class AtomicFolder {
 public:
  static Result<AtomicFolder> create(const std::string& target);

  AtomicFolder(AtomicFolder&& other) noexcept;
  AtomicFolder& operator=(AtomicFolder&&) = delete;
  ~AtomicFolder();

  const std::string& path() const { return temporary_; }
  Status commit();

 private:
  AtomicFolder() = default;
  std::string target_, temporary_;
};

Status write_text_file(const std::string& path, std::string_view text);

// Whether a file could appear there, asked before the work that fills it; leaves nothing behind. An empty path is no file, and fine.
Status check_can_write(const std::string& path);

}  // namespace retort
