#include "cli/speculation_flags.h"

#include "base/format.h"

namespace retort::cli {
namespace {

// Ids must mean the same: what a draft guesses is fed to the target as it is.
Status check_same_tokens(const std::string& path, const ModelConfig& config, const Tokenizer& draft, const ModelConfig& target_config,
                         const Tokenizer& target) {
  if (config.vocab_size != target_config.vocab_size) {
    return invalid(path, ": the draft has a vocabulary of ", config.vocab_size, ", the model one of ", target_config.vocab_size);
  }
  if (draft.size() != target.size()) {
    return invalid(path, ": the draft's tokenizer has ", draft.size(), " tokens, the model's ", target.size());
  }
  for (int32_t id = 0; id < int32_t(target.size()); ++id) {
    if (draft.token_text(id) != target.token_text(id)) {
      return invalid(path, ": the draft's token ", id, " is '", draft.token_text(id), "', the model's '", target.token_text(id), "'");
    }
  }
  return {};
}

Result<std::string> choose_type(const SpeculationFlags& flags) {
  const std::string type = !flags.type.empty() ? flags.type : flags.draft.empty() ? "none" : "draft";
  if (type == "draft" && flags.draft.empty()) return invalid("--spec-type draft: name the draft model with -md");
  if (type != "draft" && !flags.draft.empty()) return invalid("--spec-type ", type, " takes no draft model (-md)");
  return type;
}

}  // namespace

void add_speculation_flags(CLI::App& app, SpeculationFlags& flags) {
  app.add_option("--model-draft", flags.draft, "a smaller model with the same tokens guesses ahead (-md); the text stays the same");
  app.add_option("--spec-type", flags.type, "who guesses ahead: none, draft (-md), or ngram, what followed the same tokens before")
      ->check(CLI::IsMember({"none", "draft", "ngram"}));
  app.add_option("--spec-draft-n-max", flags.most, "tokens guessed in a step at most")->check(CLI::Range(1, 32))->capture_default_str();
}

Result<std::optional<OpenedDrafts>> open_drafts(const SpeculationFlags& flags, const OpenedModel& target, const Tokenizer& tokenizer) {
  RETORT_TRY(const std::string type, choose_type(flags));
  if (type == "none") return std::optional<OpenedDrafts>();
  if (type == "ngram") {
    return std::optional(OpenedDrafts{type, [](const SamplingOptions&, uint64_t) { return std::make_unique<NgramDraft>(); }});
  }
  RETORT_TRY(const ModelFiles files, open_model(flags.draft));
  RETORT_TRY(const Tokenizer draft_tokenizer, open_tokenizer(files));
  RETORT_RETURN_IF_ERROR(check_same_tokens(flags.draft, files.config, draft_tokenizer, target.files.config, tokenizer));
  RETORT_TRY(const auto model, Model::load(files, WeightFormat::kAuto, *target.pool));
  // Its own random numbers: guesses must not depend on how they are judged.
  return std::optional(OpenedDrafts{type, [model, &pool = *target.pool, engine = target.engine](const SamplingOptions& sampling, uint64_t seed) {
    return std::make_unique<ModelDraft>(model, pool, engine, sampling, seed ^ 0x5bd1e995u);
  }});
}

Result<std::optional<OpenedSpeculation>> open_speculation(const SpeculationFlags& flags, const OpenedModel& target,
                                                          const Tokenizer& tokenizer, const SamplingOptions& sampling, uint64_t seed) {
  RETORT_TRY(const auto drafts, open_drafts(flags, target, tokenizer));
  if (!drafts) return std::optional<OpenedSpeculation>();
  return std::optional(OpenedSpeculation{drafts->type, flags.most, {drafts->make(sampling, seed), flags.most}});
}

nlohmann::ordered_json speculation_json(const OpenedSpeculation& opened) {
  const SpeculationStats& s = opened.speculation.stats();
  return {{"type", opened.type}, {"draft_max", opened.most}, {"steps", s.steps}, {"tokens", s.tokens}, {"guessed", s.guessed},
          {"accepted", s.accepted}, {"acceptance", s.accepted_share()}, {"tokens_per_step", s.tokens_per_step()}};
}

std::string speculation_line(const SpeculationStats& s) {
  return cat(s.accepted, " of ", s.guessed, " guesses accepted (", format_fixed(100 * s.accepted_share(), 0), " %), ",
             format_significant(s.tokens_per_step(), 3), " tokens per step");
}

}  // namespace retort::cli
