#include "cli/open_model.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <future>
#include <random>

#include "base/cpu.h"
#include "base/path.h"
#include "cli/flags.h"

namespace retort::cli {

void add_runtime_flags(CLI::App& app, ModelFlags& flags) {
  app.add_option("--weights", flags.weights, cat("how weights are held: ", weight_format_names()))->capture_default_str();
  app.add_option("--activations", flags.activations,
                 "f32, or bf16: inputs of products with bf16 weights are rounded too (faster prefill)")->capture_default_str();
}

Result<EngineOptions> parse_activations(const std::string& name) {
  if (name != "f32" && name != "bf16") return invalid("'", name, "' is no format of activations; there are: f32, bf16");
  return EngineOptions{.bf16_activations = name == "bf16"};
}

namespace {

// `meanwhile` is told the files as soon as they are open.
Result<OpenedModel> open_and_tell(const ModelFlags& flags, const Context& context, const std::function<void(const ModelFiles&)>& meanwhile) {
  RETORT_TRY(const WeightFormat format, parse_weight_format(flags.weights));
  RETORT_TRY(const EngineOptions engine, parse_activations(flags.activations));
  if (auto isa = isa_from_environment(); !isa.ok()) return isa.error();
  const auto started = std::chrono::steady_clock::now();
  OpenedModel opened;
  opened.engine = engine;
  opened.pool = std::make_unique<ThreadPool>(context.threads);
  RETORT_TRY(opened.files, open_model(flags.path));
  meanwhile(opened.files);
  RETORT_TRY(opened.model, Model::load(opened.files, format, *opened.pool));
  opened.load_seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - started).count();
  return opened;
}

}  // namespace

Result<OpenedModel> open_for_running(const ModelFlags& flags, const Context& context) {
  return open_and_tell(flags, context, [](const ModelFiles&) {});
}

Result<OpenedText> open_with_tokenizer(const ModelFlags& flags, const Context& context) {
  std::future<Result<Tokenizer>> reading;
  RETORT_TRY(OpenedModel opened, open_and_tell(flags, context, [&](const ModelFiles& files) {
               reading = std::async(std::launch::async, [files] { return open_tokenizer(files); });
             }));
  RETORT_TRY(Tokenizer tokenizer, reading.get());
  return OpenedText{std::move(opened), std::move(tokenizer)};
}

std::vector<std::string> short_names(const std::vector<std::string>& paths) {
  std::vector<std::string> out;
  for (const auto& path : paths) {
    const auto whole = std::filesystem::path(without_trailing_slashes(path)).lexically_normal();
    const auto last = whole.extension() == ".gguf" ? whole.stem() : whole.filename();
    out.push_back((last == "student" && whole.has_parent_path() ? whole.parent_path().filename() : last).string());
  }
  for (const auto& name : out) {
    if (name.empty() || std::count(out.begin(), out.end(), name) > 1) return paths;
  }
  return out;
}

bool warn_past_context(const ModelConfig& config, int64_t tokens) {
  if (config.context_length <= 0 || tokens <= config.context_length) return false;
  std::fprintf(stderr, "retort: warning: up to %lld tokens, the model was made for %lld; what follows those may be poor\n",
               static_cast<long long>(tokens), static_cast<long long>(config.context_length));
  return true;
}

Result<SamplingOptions> sampling_options(const SamplingFlags& flags) {
  SamplingOptions o;
  o.temperature = flags.temperature.value_or(o.temperature);
  o.top_k = flags.top_k.value_or(o.top_k);
  o.top_p = flags.top_p.value_or(o.top_p);
  o.min_p = flags.min_p.value_or(o.min_p);
  o.repeat_penalty = flags.repeat_penalty.value_or(o.repeat_penalty);
  o.repeat_last_n = flags.repeat_last_n.value_or(o.repeat_last_n);
  RETORT_RETURN_IF_ERROR(validate(o));
  return o;
}

SamplingOptions with_tokens_alone(SamplingOptions options, const OpenedText& opened) {
  options.never = opened.tokenizer.ids_without_token(opened.files.config.vocab_size);
  return options;
}

uint64_t choose_seed(const Context& context) {
  if (context.seed) return *context.seed;
  std::random_device device;
  return uint64_t(device()) << 32 | device();
}

}  // namespace retort::cli
