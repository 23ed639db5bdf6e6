// Models: loading, facts.
#include "base/cpu.h"
#include "capi/handles.h"
#include "capi/outcome.h"
#include "io/model_files.h"
#include "io/tokenizer_files.h"

namespace retort::capi {

Engine& Engines::take() {
  const std::lock_guard lock(mutex_);
  if (free_.empty()) {
    free_.reserve(all_.size() + 1);  // so that giving back cannot fail
    all_.push_back(std::make_unique<Engine>(model_, pool_, options_));
    free_.push_back(all_.back().get());
  }
  Engine& engine = *free_.back();
  free_.pop_back();
  return engine;
}

void Engines::give_back(Engine& engine) noexcept {
  const std::lock_guard lock(mutex_);
  free_.push_back(&engine);
}

namespace {

constexpr retort_model_options kModelDefaults = RETORT_MODEL_DEFAULTS;
constexpr int kMostThreads = 4096;

Result<std::shared_ptr<Core>> load(const char* path, const retort_model_options& options) {
  RETORT_TRY(const WeightFormat format, parse_weight_format(options.weights ? options.weights : "auto"));
  if (options.threads < 0 || options.threads > kMostThreads) {
    return invalid("threads is ", options.threads, "; expected 0 (as many as the process may use) to ", kMostThreads);
  }
  if (auto isa = isa_from_environment(); !isa.ok()) return isa.error();
  auto pool = std::make_unique<ThreadPool>(options.threads);
  RETORT_TRY(const ModelFiles files, open_model(path));
  RETORT_TRY(auto model, Model::load(files, format, *pool));
  return std::make_shared<Core>(std::move(pool), std::move(model), EngineOptions{.bf16_activations = options.bf16_activations != 0},
                                open_tokenizer(files));
}

int64_t state_bytes(const StateLayout& layout, int64_t tokens) {
  int64_t per_token = 0;
  for (const StateLayout::Slot& slot : layout.growing()) per_token += KvCache(slot.shape, layout.cache_type()).row_bytes();
  return layout.fixed_numbers() * int64_t(sizeof(float)) + per_token * tokens;
}

// A number about a model, or -1.
template <class Fn>
auto fact(const retort_model* model, Fn&& fn) noexcept -> decltype(fn(*model->core)) {
  if (model) return fn(*model->core);
  report(RETORT_INVALID, "model is NULL");
  return -1;
}

}  // namespace
}  // namespace retort::capi

using namespace retort::capi;

extern "C" {

retort_status retort_model_load(const char* path, const retort_model_options* options, retort_model** model) {
  return guarded([&]() -> Outcome {
    RETORT_RETURN_IF_ERROR(not_null(model, "model"));
    *model = nullptr;
    RETORT_RETURN_IF_ERROR(not_null(path, "path"));
    RETORT_TRY(const retort_model_options chosen,
               options_of(options, kModelDefaults, "retort_model_options", "RETORT_MODEL_DEFAULTS"));
    RETORT_TRY(auto core, load(path, chosen));
    *model = new retort_model{std::move(core)};
    return {};
  });
}

void retort_model_free(retort_model* model) { delete model; }

int32_t retort_model_vocabulary(const retort_model* model) {
  return fact(model, [](const Core& core) -> int32_t { return core.model->config().vocab_size; });
}

int64_t retort_model_context_length(const retort_model* model) {
  return fact(model, [](const Core& core) -> int64_t { return core.model->config().context_length; });
}

int64_t retort_model_weight_bytes(const retort_model* model) {
  return fact(model, [](const Core& core) -> int64_t { return core.model->weight_bytes(); });
}

int64_t retort_model_state_bytes(const retort_model* model, int64_t tokens) {
  int64_t bytes = -1;
  guarded([&]() -> Outcome {
    RETORT_RETURN_IF_ERROR(not_null(model, "model"));
    RETORT_RETURN_IF_ERROR(check_count(tokens, "tokens"));
    bytes = state_bytes(*model->core->model->layout(), tokens);
    return {};
  });
  return bytes;
}

const char* retort_model_identity(const retort_model* model) {
  if (model) return model->core->model->identity().c_str();
  report(RETORT_INVALID, "model is NULL");
  return nullptr;
}

int retort_model_has_tokenizer(const retort_model* model) {
  return fact(model, [](const Core& core) -> int { return core.tokenizer.ok(); });
}

int retort_model_has_chat_template(const retort_model* model) {
  return fact(model, [](const Core& core) -> int { return core.chat_template.ok(); });
}

}  // extern "C"
