#include "cli/flags.h"

#include <array>
#include <utility>

namespace retort::cli {
namespace {

constexpr const char* kModelHelp = "Hugging Face folder or .gguf file";

constexpr std::array<std::pair<const char*, const char*>, 3> kShortForms = {{
    {"-md", "--model-draft"},
    {"-np", "--parallel"},
    {"-sys", "--system-prompt"},
}};

const Error kNoModel = {ErrorCode::kInvalidInput, "no model given: name a Hugging Face folder or a .gguf file (MODEL or -m MODEL)"};

}  // namespace

void add_model_flag(CLI::App& app, std::string& model) { app.add_option("-m,--model,MODEL", model, kModelHelp); }

void add_model_flag(CLI::App& app, std::vector<std::string>& models) {
  app.add_option("-m,--model,MODEL", models, "Hugging Face folders or .gguf files");
}

Status require_model(const std::string& model) { return model.empty() ? Status(kNoModel) : Status(); }
Status require_model(const std::vector<std::string>& models) { return models.empty() ? Status(kNoModel) : Status(); }

void add_sampling_flags(CLI::App& app, SamplingFlags& flags) {
  app.add_option("--temp,--temperature", flags.temperature, "temperature; 0 takes the likeliest token")
      ->check(CLI::Range(0.0, 100.0));
  app.add_option("--top-k", flags.top_k, "sample among the K likeliest tokens; 0 turns it off")
      ->check(CLI::Range(0, 1 << 30));
  app.add_option("--top-p", flags.top_p, "sample among the likeliest tokens that hold this mass; 1 turns it off")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--min-p", flags.min_p, "drop tokens below this share of the likeliest one; 0 turns it off")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--repeat-penalty", flags.repeat_penalty, "divide the logits of recent tokens by this; 1 turns it off")
      ->check(CLI::Range(0.01, 100.0));
  app.add_option("--repeat-last-n", flags.repeat_last_n, "how many recent tokens are penalised")
      ->check(CLI::Range(0, 1 << 20));
}

std::vector<std::string> expand_short_forms(std::vector<std::string> arguments) {
  for (auto& argument : arguments) {
    for (const auto& [brief, full] : kShortForms) {
      if (argument == brief) argument = full;
    }
  }
  return arguments;
}

}  // namespace retort::cli
