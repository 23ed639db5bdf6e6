// Paths: questions that never throw, and names without slashes at their end.
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

// "runs/a//" -> "runs/a"; "/" stays.
inline std::string without_trailing_slashes(std::string path) {
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  return path;
}

}  // namespace retort
