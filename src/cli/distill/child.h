// A child process that gets its own ctrl-C: exactly one, passed on by us, so that it saves its work and ends.
//
// Layer: cli.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace retort::cli {

// Beside this executable. Not built: an error that says how to.
Result<std::string> train_program();

// Its exit code. What it prints on standard output is dropped: our own results go there.
Result<int> run_child(const std::string& program, const std::vector<std::string>& arguments);

// Becomes the program; returns only when that failed.
Status become(const std::string& program, const std::vector<std::string>& arguments);

}  // namespace retort::cli
