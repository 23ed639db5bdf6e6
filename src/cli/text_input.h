// Text that a command reads: a file, or - for standard input.
//
// Layer: cli.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "io/tokenizer.h"

namespace retort::cli {

Result<std::string> read_text_input(const std::string& path);

// The first `most` tokens of the documents (.txt or .jsonl, packed or not); the start token, if the tokenizer has one, begins each. Fewer
// than 2 are an error that names `flag`.
Result<std::vector<int>> corpus_tokens(const std::vector<std::string>& paths, const Tokenizer& tokenizer, int64_t most, const char* flag);

// What messages call it.
std::string input_name(const std::string& path);

}  // namespace retort::cli
