// Text that a command reads: a file, or - for standard input.
//
// Layer: cli.
#pragma once

#include <string>

#include "base/error.h"

namespace retort::cli {

Result<std::string> read_text_input(const std::string& path);

// What messages call it.
std::string input_name(const std::string& path);

}  // namespace retort::cli
