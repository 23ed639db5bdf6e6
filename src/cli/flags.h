// Flags that several commands share, with llama.cpp's names.
//
// Layer: cli.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/error.h"

namespace retort::cli {

// MODEL as a positional argument, -m or --model: a Hugging Face folder or a .gguf file.
void add_model_flag(CLI::App& app, std::string& model);
void add_model_flag(CLI::App& app, std::vector<std::string>& models);
Status require_model(const std::string& model);
Status require_model(const std::vector<std::string>& models);

// Unset: the model's or the command's default.
struct SamplingFlags {
  std::optional<double> temperature;      // --temp
  std::optional<int> top_k;               // --top-k, 0: off
  std::optional<double> top_p;            // --top-p, 1: off
  std::optional<double> min_p;            // --min-p, 0: off
  std::optional<double> repeat_penalty;   // --repeat-penalty, 1: off
  std::optional<int> repeat_last_n;       // --repeat-last-n
};
void add_sampling_flags(CLI::App& app, SamplingFlags& flags);

// CLI11 reads "-md" as "-m d"; llama.cpp's two-letter forms become their long names before parsing.
std::vector<std::string> expand_short_forms(std::vector<std::string> arguments);

}  // namespace retort::cli
