#include "cli/distill/measure.h"

#include <algorithm>
#include <deque>
#include <iterator>

#include "base/interrupt.h"
#include "base/mapped_file.h"
#include "cli/open_model.h"
#include "eval/copy_recall.h"
#include "eval/decoding_speed.h"
#include "eval/perplexity.h"
#include "runtime/session.h"

namespace retort::cli {
namespace {

using Json = nlohmann::ordered_json;
Result<std::vector<int>> read_tokens(const Tokenizer& tokenizer, const std::string& file) {
  RETORT_TRY(const std::string text, read_text_file(file));
  auto ids = tokenizer.encode(text, {.add_special = false, .parse_special = false});
  if (!ids.ok()) return invalid(file, ": ", ids.error().message);
  if (ids->size() < 2) return invalid(file, ": fewer than two tokens to measure on");
  return std::vector<int>(ids->begin(), ids->end());
}

std::span<const int> first_of(const std::vector<int>& tokens, int64_t count) {
  return std::span(tokens).first(std::min(tokens.size(), size_t(count)));
}

Result<double> perplexity_of(Engine& engine, std::span<const int> tokens, int64_t window) {
  PerplexityOptions options;
  options.context = window;
  RETORT_TRY(const auto result, perplexity(engine, tokens, options));
  if (interrupted()) return interrupted_error();
  return result.perplexity();
}

Result<double> copy_perplexity(Engine& engine, std::span<const int> tokens, const EvaluationPlan& plan) {
  CopyRecallOptions options;
  options.passages = plan.copy_passages;
  options.length = plan.copy_length;
  RETORT_TRY(const auto result, copy_recall(engine, tokens, options));
  if (interrupted()) return interrupted_error();
  return result.perplexity();
}

Result<std::string> sample_text(Engine& engine, const Tokenizer& tokenizer, const EvaluationPlan& plan) {
  RETORT_TRY(const auto prompt, tokenizer.encode(plan.prompt, {.add_special = true, .parse_special = false}));
  Session session(engine);
  session.commit(std::vector<int>(prompt.begin(), prompt.end()));
  SamplingOptions options;
  options.temperature = 0;
  options.repeat_penalty = 1.1;  // greedy text of small models turns in circles
  options.never = tokenizer.ids_without_token(engine.model().config().vocab_size);
  Sampler sampler(options, 0);
  std::vector<int32_t> made(prompt.begin(), prompt.end());
  for (int64_t i = 0; i < plan.sample_tokens; ++i) {
    RETORT_RETURN_IF_ERROR(session.consume());
    const int token = sampler.sample(session.logits(), session.tokens());
    if (tokenizer.is_eog(token)) break;
    session.commit(token);
    made.push_back(token);
  }
  return tokenizer.decode(made, true);
}

// {"kept": "12 of 90 kv heads", "kept_heads": ["7.2", ...], "parameters": N}; "none" and "all" where they fit.
void describe_layers(const ModelConfig& config, Json& out) {
  Json heads = Json::array();
  for (size_t l = 0; l < config.plan.size(); ++l) {
    for (const auto& part : config.plan[l].parts) {
      if (part.mixer != "attention") continue;
      for (const int head : part.kv_heads) heads.push_back(cat(l, ".", head));
    }
  }
  const size_t all = size_t(config.layers) * size_t(config.kv_heads);
  out["mixers"] = layout_string(config);
  out["kept"] = heads.empty() ? "none" : heads.size() == all ? "all" : cat(heads.size(), " of ", all, " kv heads");
  if (heads.size() < all) out["kept_heads"] = heads;
  int64_t parameters = 0;
  for (const TensorSpec& spec : model_tensors(config)) parameters += spec.count();
  out["parameters"] = parameters;
}

}  // namespace

Result<Json> measure_model(const std::string& path, const EvaluationPlan& plan, const std::vector<EvaluationText>& texts, const Context& context,
                           const Say& say) {
  Json out;
  std::vector<std::vector<int>> tokens;
  {
    RETORT_TRY(OpenedText opened, open_with_tokenizer({path, plan.weights, plan.activations}, context));
    const Tokenizer& tokenizer = opened.tokenizer;
    Engine engine(opened.model, *opened.pool, opened.engine);
    for (const auto& text : texts) {
      RETORT_TRY(tokens.emplace_back(), read_tokens(tokenizer, text.file));
    }
    describe_layers(opened.files.config, out);
    Json perplexities = Json::array();
    for (size_t t = 0; t < texts.size(); ++t) {
      for (const int64_t window : plan.windows) {
        say(cat("perplexity on ", texts[t].name, ", window ", window));
        const bool main = t == 0 && window == plan.windows[0];
        const auto part = first_of(tokens[t], main ? plan.tokens : std::max(window, plan.window_tokens / window * window));
        RETORT_TRY(const double value, perplexity_of(engine, part, window));
        perplexities.push_back({{"corpus", texts[t].name}, {"window", window}, {"perplexity", value}, {"tokens", part.size()}});
      }
    }
    out["perplexity"] = perplexities[0]["perplexity"];
    say("copy probe");
    RETORT_TRY(const double copy, copy_perplexity(engine, first_of(tokens[0], plan.tokens), plan));
    out["copy_perplexity"] = copy;
    out["perplexities"] = perplexities;
    say("a sample");
    RETORT_TRY(out["sample"], sample_text(engine, tokenizer, plan));
  }
  out["weights"] = plan.weights;
  out["activations"] = plan.activations;
  return out;
}

Result<std::vector<Json>> measure_speed(const std::vector<std::string>& models, const EvaluationPlan& plan, const EvaluationText& text,
                                        const Context& context, const Say& say) {
  auto contexts = plan.contexts;
  std::sort(contexts.begin(), contexts.end());
  std::vector<OpenedModel> opened;
  std::deque<Engine> engines;  // sessions point to them
  std::vector<FilledContext> filled;
  for (const std::string& model : models) {
    say(model);
    RETORT_TRY(opened.emplace_back(), open_for_running({model, plan.speed_weights}, context));
    RETORT_TRY(const Tokenizer tokenizer, open_tokenizer(opened.back().files));
    RETORT_TRY(const auto tokens, read_tokens(tokenizer, text.file));
    Engine& engine = engines.emplace_back(opened.back().model, *opened.back().pool, opened.back().engine);
    RETORT_TRY(auto more, fill_contexts(engine, tokens, contexts, [](int64_t) { return !interrupted(); }));
    std::move(more.begin(), more.end(), std::back_inserter(filled));
  }
  say("all of them, in turn");
  RETORT_TRY(const auto rates, decode_in_turn(filled, std::vector{1}, int(plan.decode_tokens), int(plan.decode_turns)));
  std::vector<Json> out(models.size(), Json::array());
  for (size_t i = 0; i < filled.size(); ++i) {
    out[i / contexts.size()].push_back({{"context", filled[i].context}, {"tokens_per_second", rates[i].front().median},
                                        {"state_bytes", filled[i].sequence.bytes()}});
  }
  return out;
}

Result<double> measure_perplexity(const std::string& path, const EvaluationPlan& plan, const EvaluationText& text, const Context& context) {
  RETORT_TRY(OpenedText opened, open_with_tokenizer({path, plan.weights, plan.activations}, context));
  const Tokenizer& tokenizer = opened.tokenizer;
  RETORT_TRY(const auto tokens, read_tokens(tokenizer, text.file));
  Engine engine(opened.model, *opened.pool, opened.engine);
  return perplexity_of(engine, first_of(tokens, plan.tokens), plan.windows[0]);
}

}  // namespace retort::cli
