// Questions about paths that never throw.
//
// Layer: base. Thread-safe.
#pragma once

#include <filesystem>
#include <string>

namespace retort {

// False also for what cannot be looked at.
inline bool path_exists(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}
inline bool is_folder(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::is_directory(path, ignored);
}

}  // namespace retort
