#include "cli/text_input.h"

#include <iostream>
#include <iterator>

#include "base/mapped_file.h"

namespace retort::cli {

Result<std::string> read_text_input(const std::string& path) {
  if (path != "-") return read_text_file(path);
  std::string text(std::istreambuf_iterator<char>(std::cin), {});
  if (std::cin.bad()) return io_error("standard input cannot be read");
  return text;
}

std::string input_name(const std::string& path) { return path == "-" ? "standard input" : path; }

}  // namespace retort::cli
