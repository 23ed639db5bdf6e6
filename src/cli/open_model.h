// What the commands that run a model share: flags for how its weights are held, and the whole of it opened.
//
// Layer: cli.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/command.h"
#include "cli/flags.h"
#include "io/tokenizer_files.h"
#include "runtime/model.h"
#include "runtime/sampling.h"

namespace retort::cli {

struct ModelFlags {
  std::string path;
  std::string weights = "auto";
  std::string activations = "f32";
};
// --weights and --activations.
void add_runtime_flags(CLI::App& app, ModelFlags& flags);

// The pool first: it must outlive the engine.
struct OpenedModel {
  std::unique_ptr<ThreadPool> pool;
  ModelFiles files;
  std::shared_ptr<const Model> model;
  EngineOptions engine;
  double load_seconds = 0;
};
// "f32" or "bf16".
Result<EngineOptions> parse_activations(const std::string& name);
Result<OpenedModel> open_for_running(const ModelFlags& flags, const Context& context);

// With its tokenizer, which is read while the weights are packed.
struct OpenedText : OpenedModel {
  Tokenizer tokenizer;
};
Result<OpenedText> open_with_tokenizer(const ModelFlags& flags, const Context& context);

// What tables and files call models: the last part of each path, or the one before it where that is "student"; whole paths where that
// does not tell them apart.
std::vector<std::string> short_names(const std::vector<std::string>& paths);

// A line on standard error when `tokens` in one context are more than the model was made for. Attention was trained up to a length; a
// recurrence has none, but what it was distilled from had. True when it warned.
bool warn_past_context(const ModelConfig& config, int64_t tokens);

// What was not set takes llama.cpp's default.
Result<SamplingOptions> sampling_options(const SamplingFlags& flags);
// Of the opened model: its tokens alone are drawn.
SamplingOptions with_tokens_alone(SamplingOptions options, const OpenedText& opened);
uint64_t choose_seed(const Context& context);

}  // namespace retort::cli
