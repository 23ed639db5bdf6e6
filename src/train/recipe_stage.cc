// One stage: what trains, for how long, at which rates.
#include <algorithm>
#include <span>
#include <string>

#include "train/recipe_names.h"
#include "train/recipe_parts.h"
#include "train/schedule.h"

namespace retort::train {
namespace {

constexpr Named kSchedules[] = {{"constant", int(ScheduleKind::kConstant)}, {"linear", int(ScheduleKind::kLinear)},
                                {"cosine", int(ScheduleKind::kCosine)}, {"wsd", int(ScheduleKind::kWsd)},
                                {"plateau", int(ScheduleKind::kPlateau)}};

// What dpo has no use for, and what nothing else has.
void check_pairs(YamlSource& source, YamlFields& fields, const StageSpec& stage) {
  if (!stage.compares_pairs()) {
    if (stage.max_prompt > 0) source.fail(fields.take("max_prompt"), fields.key_of("max_prompt"), "'max_prompt' cuts the prompts of pairs; stage '", stage.name, "' has no dpo");
    return;
  }
  if (stage.max_prompt >= stage.seq) {
    source.fail(fields.take("max_prompt"), fields.key_of("max_prompt"), "'max_prompt' is ", stage.max_prompt, "; it must be below 'seq', ", stage.seq,
                ", or no answer has a place");
  }
  if (stage.repeat_every > 0) source.fail(fields.take("repeat_every"), fields.key_of("repeat_every"), "'repeat_every' is for text; dpo reads pairs of answers");
  if (stage.logit_fraction < 1) {
    source.fail(fields.take("logit_fraction"), fields.key_of("logit_fraction"), "'logit_fraction' must be 1: dpo sums over whole answers");
  }
}

// A share of the stage or, under NAME_steps, a number of steps.
void read_extent(YamlSource& source, YamlFields& fields, const char* name, const char* steps_name, double& share, int64_t& steps) {
  fields.number(name, share, 0, 1);
  if (!fields.has(steps_name)) return;
  fields.count(steps_name, steps, 0);
  if (fields.has(name)) source.fail(fields.take(name), fields.key_of(name), "give '", name, "' or '", steps_name, "', not both");
}

// `peak`: the stage's lr, which no floor is above.
void read_schedule(YamlSource& source, YamlFields& stage, double peak, ScheduleSpec& schedule) {
  if (!stage.has("schedule")) return;
  const YAML::Node node = stage.take("schedule");
  const std::string key = stage.key_of("schedule");
  if (node.IsScalar()) return choose(source, node, key, "schedule", kSchedules, node.Scalar(), schedule.kind);
  if (!node.IsMap() || node.size() != 1) {
    return source.fail(node, key, "'schedule' must be one of constant, linear, cosine, wsd, plateau, or one of them with fields: {wsd: {warmup: 0.1}}");
  }
  const auto entry = *node.begin();
  const std::string name = entry.first.IsScalar() ? entry.first.Scalar() : "?";
  choose(source, entry.first, key, "schedule", kSchedules, name, schedule.kind);
  if (!source.status.ok()) return;
  YamlFields fields(source, entry.second, key + "." + name, "schedule '" + name + "'");
  read_extent(source, fields, "warmup", "warmup_steps", schedule.warmup, schedule.warmup_steps);
  if (schedule.kind == ScheduleKind::kWsd) read_extent(source, fields, "decay", "decay_steps", schedule.decay, schedule.decay_steps);
  if (schedule.kind != ScheduleKind::kConstant) fields.number("min_lr", schedule.min_lr, 0, peak);
  if (schedule.kind == ScheduleKind::kPlateau) {
    fields.number("factor", schedule.factor, 1e-6, 0.999999);
    read_plateau(fields, schedule.plateau);
  }
  fields.finish();
}

void read_betas(YamlSource& source, YamlFields& stage, std::array<double, 2>& betas) {
  if (!stage.has("betas")) return;
  const YAML::Node node = stage.take("betas");
  bool good = node.IsSequence() && node.size() == 2;
  for (size_t i = 0; good && i < 2; ++i) {
    good = node[i].IsScalar() && parse_number(node[i].Scalar(), betas[i]) && betas[i] >= 0 && betas[i] < 1;
  }
  if (!good) source.fail(node, stage.key_of("betas"), "'betas' must be two numbers from 0 to 1, such as [0.9, 0.95]");
}

// What a stage that compares layers has no use for: it computes no logits, and keeps one layer's graph at a time. What all stages share is
// for those that can use it.
void check_layers(YamlSource& source, YamlFields& fields, StageSpec& stage, std::span<const std::string> shared) {
  if (!stage.layer_wise()) return;
  const auto without = [&](const char* key, auto& value, auto none, const char* why) {
    if (value == none) return;
    value = none;
    if (std::find(shared.begin(), shared.end(), key) != shared.end()) return;
    source.fail(fields.take(key), fields.key_of(key), "'", key, "' is for stages that run end to end (logits, ce); stage '", stage.name,
                "' compares layers, ", why, ": remove it there");
  };
  without("logit_fraction", stage.logit_fraction, 1.0, "which has no logits");
  without("checkpoint_activations", stage.checkpoint_activations, false, "which keeps one layer's graph anyway");
}

void check_reached(YamlSource& source, YamlFields& fields, const StageSpec& stage) {
  const auto never = never_reached(stage, int64_t(BudgetMeter(stage.budget, stage.tokens_per_step()).total_steps()));  // of wall time 0: not known
  if (!never) return;
  const bool warmup = never->key == std::string("schedule");
  const std::string key = fields.key_of(never->key) + (warmup ? cat(".", schedule_name(stage.schedule.kind), ".warmup_steps") : "");
  source.fail(fields.take(never->key), key, never->message);
}

// The entry {lora: {r: 8, alpha: 16, on: [q, v]}} of 'train'.
void read_lora(YamlSource& source, const YAML::Node& node, const std::string& key, LoraSpec& lora) {
  YamlFields entry(source, node, key, "'train'");
  const YAML::Node inner = entry.take("lora");
  entry.finish();
  if (!inner.IsDefined()) return source.fail(node, key, "'train' names tensors, or has {lora: {r: 8, alpha: 16, on: [q, k, v, o]}}");
  YamlFields fields(source, inner, key + ".lora", "'lora'");
  lora = {8, 16, {"q", "k", "v", "o"}};
  fields.whole("r", lora.r, 1, 1 << 14);
  fields.number("alpha", lora.alpha, 1e-6, 1e6);
  fields.texts("on", lora.on);
  if (lora.on.empty()) source.fail(fields.take("on"), fields.key_of("on"), "'on' names nothing; remove it or name q, k, v, o, gate, up, down");
  fields.finish();
}

// Patterns, {lora: ...}, or a list of both.
void read_train(YamlSource& source, YamlFields& stage_fields, StageSpec& stage) {
  if (!stage_fields.has("train")) return;
  const YAML::Node node = stage_fields.take("train");
  const std::string key = stage_fields.key_of("train");
  const bool maps = node.IsMap() || (node.IsSequence() && std::any_of(node.begin(), node.end(), [](const YAML::Node& item) { return item.IsMap(); }));
  if (!maps) {
    stage_fields.texts("train", stage.train);
    if (stage.train.empty()) source.fail(node, key, "'train' names nothing; remove it or name mixers");
    return;
  }
  stage.train.clear();
  if (node.IsMap()) return read_lora(source, node, key, stage.lora);
  for (const auto& item : node) {
    if (item.IsScalar()) stage.train.push_back(item.Scalar());
    else if (stage.lora.r == 0) read_lora(source, item, key, stage.lora);
    else source.fail(item, key, "'train' has two entries that are no names; one {lora: ...} has all that it is 'on'");
  }
}

}  // namespace

StageSpec read_stage(YamlSource& source, const YAML::Node& node, const std::string& name, std::span<const std::string> shared) {
  StageSpec stage;
  stage.name = name;
  YamlFields fields(source, node, name, "stage '" + name + "'");
  fields.take("name");
  read_losses(source, fields, stage.losses);
  read_train(source, fields, stage);
  fields.whole("seq", stage.seq, 2, 1 << 20);
  fields.whole("batch", stage.batch, 1, 1 << 16);
  fields.whole("accumulate", stage.accumulate, 1, 1 << 16);
  fields.count("tokens", stage.budget.tokens, 1);
  fields.count("steps", stage.budget.steps, 1);
  fields.number("minutes", stage.budget.minutes, 1e-6, 1e6);
  fields.number("epochs", stage.budget.epochs, 1e-6, 1e6);
  read_stage_data(source, fields, stage.data);
  fields.number("lr", stage.lr, 0, 10);
  fields.number("lr_mixers", stage.lr_mixers, 1e-30, 10);
  fields.number("lr_features", stage.lr_features, 1e-30, 10);
  fields.number("lr_gates", stage.lr_gates, 1e-30, 10);
  read_betas(source, fields, stage.betas);
  fields.number("weight_decay", stage.weight_decay, 0, 10);
  fields.number("eps", stage.eps, 1e-30, 1);
  read_schedule(source, fields, stage.lr, stage.schedule);
  fields.number("clip", stage.clip, 0, 1e9);
  fields.whole("max_skipped", stage.max_skipped, 1, 1 << 30);
  fields.number("ema", stage.ema, 0, 0.999999);
  fields.number("logit_fraction", stage.logit_fraction, 1e-6, 1);
  fields.whole("repeat_every", stage.repeat_every, 0, 1 << 30);
  fields.flag("checkpoint_activations", stage.checkpoint_activations);
  fields.whole("max_prompt", stage.max_prompt, 1, 1 << 20);
  if (!fields.has("lr")) source.fail(node, name, "stage '", name, "' needs 'lr'");
  if (std::none_of(std::begin(kBudgets), std::end(kBudgets), [&](const char* budget) { return fields.has(budget); })) {
    source.fail(node, name, "stage '", name, "' needs a budget: 'tokens', 'steps', 'epochs' or 'minutes'");
  }
  check_layers(source, fields, stage, shared);
  check_pairs(source, fields, stage);
  read_switch(source, fields, stage);
  check_reached(source, fields, stage);
  fields.finish();
  return stage;
}

const char* schedule_name(ScheduleKind kind) { return name_of(kSchedules, kind); }

}  // namespace retort::train
