// Where tests find real files, and a folder that goes away.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

namespace retort::test {

inline std::filesystem::path source_root() { return std::filesystem::path(__FILE__).parent_path().parent_path(); }

// SmolLM2-135M-Instruct as Q4_1 GGUF: $RETORT_TEACHER, or models/ in the checkout. May not exist: skip then.
inline std::string teacher_path() {
  if (const char* path = std::getenv("RETORT_TEACHER")) return path;
  return source_root() / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf";
}

class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "retort-test-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TempFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }
  std::string str() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

inline void write_file(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

inline std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace retort::test
