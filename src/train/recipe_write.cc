// Recipes as text again: the resolved recipe of a run folder, and what a user may type for `keep`.
#include <algorithm>
#include <cmath>
#include <sstream>

#include "base/number_list.h"
#include "io/yaml_fields.h"
#include "train/recipe.h"

namespace retort::train {
namespace {

using Json = nlohmann::ordered_json;

Json plateau_json(const PlateauSpec& plateau) {
  return {{"every", plateau.every}, {"patience", plateau.patience}, {"threshold", plateau.threshold}};
}

Json switch_json(const SwitchSpec& change) {
  Json when = {{"plateau", plateau_json(change.plateau)}};
  if (change.when == SwitchSpec::When::kStep) when = {{"step", change.step}};
  if (change.when == SwitchSpec::When::kFraction) when = {{"fraction", change.fraction}};
  return {{"to", change.to}, {"when", when}};
}

Json schedule_json(const ScheduleSpec& schedule) {
  Json fields = Json::object();
  if (schedule.warmup_steps >= 0) fields["warmup_steps"] = schedule.warmup_steps;
  else fields["warmup"] = schedule.warmup;
  if (schedule.kind == ScheduleKind::kWsd) {
    if (schedule.decay_steps >= 0) fields["decay_steps"] = schedule.decay_steps;
    else fields["decay"] = schedule.decay;
  }
  if (schedule.kind != ScheduleKind::kConstant) fields["min_lr"] = schedule.min_lr;
  if (schedule.kind == ScheduleKind::kPlateau) {
    fields["factor"] = schedule.factor;
    fields.update(plateau_json(schedule.plateau));
  }
  return Json{{schedule_name(schedule.kind), fields}};
}

Json losses_json(const std::vector<LossSpec>& losses) {
  Json out = Json::object();
  for (const auto& loss : losses) {
    Json fields = {{"weight", loss.weight}};
    if (loss.kind != LossKind::kCe && loss.kind != LossKind::kDpo && loss.kind != LossKind::kAttnXent) fields["form"] = form_name(loss.form);
    if (loss.kind == LossKind::kAttnOut) fields["at"] = loss.at_heads ? "heads" : "output";
    if (loss.kind == LossKind::kHidden) fields["gap"] = loss.gap;
    if (loss.kind == LossKind::kLogits) {
      fields["temperature"] = loss.temperature;
      fields["reduction"] = loss.reduction == Reduction::kTokenMean ? "token_mean" : "batch_mean";
      if (!loss.cache.empty()) fields["cache"] = loss.cache, fields["top_k"] = loss.top_k;
    }
    if (loss.kind == LossKind::kLogits || loss.kind == LossKind::kCe) fields["mask"] = loss.mask == LossMask::kAll ? "all" : "labels";
    if (loss.kind == LossKind::kDpo) {
      fields["beta"] = loss.beta;
      fields["reference"] = loss.reference == Reference::kTeacher ? "teacher" : "start";
    }
    out[loss_name(loss.kind)] = fields;
  }
  return out;
}

Json sources_json(const std::vector<DataSource>& sources) {
  Json out = Json::array();
  for (const auto& source : sources) {
    if (source.weight > 0) out.push_back({{"file", source.file}, {"weight", source.weight}});
    else out.push_back(source.file);
  }
  return out;
}

Json train_json(const StageSpec& stage) {
  Json out = stage.train;
  if (stage.lora.r > 0) out.push_back({{"lora", {{"r", stage.lora.r}, {"alpha", stage.lora.alpha}, {"on", stage.lora.on}}}});
  return out;
}

Json stage_json(const StageSpec& stage) {
  Json out = {{"name", stage.name}, {"loss", losses_json(stage.losses)}, {"train", train_json(stage)},
              {"seq", stage.seq}, {"batch", stage.batch}, {"accumulate", stage.accumulate}};
  if (stage.budget.tokens > 0) out["tokens"] = stage.budget.tokens;
  if (stage.budget.minutes > 0) out["minutes"] = stage.budget.minutes;
  if (stage.budget.steps > 0) out["steps"] = stage.budget.steps;
  if (stage.budget.epochs > 0) out["epochs"] = stage.budget.epochs;
  out["lr"] = stage.lr;
  if (stage.lr_mixers > 0) out["lr_mixers"] = stage.lr_mixers;
  if (stage.lr_features > 0) out["lr_features"] = stage.lr_features;
  if (stage.lr_gates > 0) out["lr_gates"] = stage.lr_gates;
  out["betas"] = stage.betas;
  out["weight_decay"] = stage.weight_decay;
  out["eps"] = stage.eps;
  out["schedule"] = schedule_json(stage.schedule);
  out["clip"] = stage.clip;
  out["max_skipped"] = stage.max_skipped;
  out["ema"] = stage.ema;
  out["logit_fraction"] = stage.logit_fraction;
  out["repeat_every"] = stage.repeat_every;
  out["checkpoint_activations"] = stage.checkpoint_activations;
  if (stage.max_prompt > 0) out["max_prompt"] = stage.max_prompt;
  if (!stage.data.empty()) out["data"] = sources_json(stage.data);
  if (!stage.switch_teacher.to.empty()) out["switch_teacher"] = switch_json(stage.switch_teacher);
  return out;
}

bool plain_text(const std::string& text) {
  static const std::vector<std::string> kWords = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"};
  const auto letter = [](char c) { return std::isalpha(static_cast<unsigned char>(c)) || c == '_' || c == '/'; };
  const auto inner = [&](char c) { return letter(c) || std::isdigit(static_cast<unsigned char>(c)) || c == '.' || c == '-'; };
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  return !text.empty() && letter(text[0]) && std::all_of(text.begin(), text.end(), inner) &&
         std::find(kWords.begin(), kWords.end(), lower) == kWords.end();
}

// The keys that `student` and each of its `layers` share.
Json mixer_json(const MixerSpec& spec) {
  return {{"mixer", spec.mixer}, {"window", spec.window.size}, {"sinks", spec.window.sinks}, {"config", Json::parse(spec.config.dump())}};
}

Json layer_json(const LayerSpec& spec) {
  Json out = {{"layers", numbers_text(spec.layers)}};
  if (!spec.heads.empty()) out["heads"] = numbers_text(spec.heads);
  out.update(mixer_json(spec));
  return out;
}

// JSON is YAML; unquoted names only make it pleasanter to read.
std::string flow(const Json& value) {
  if (value.is_string()) return plain_text(value.get<std::string>()) ? value.get<std::string>() : value.dump();
  if (!value.is_structured()) return value.dump();
  std::string out = value.is_array() ? "[" : "{";
  bool first = true;
  for (const auto& [key, item] : value.items()) {
    if (!first) out += ", ";
    first = false;
    out += value.is_array() ? flow(item) : key + ": " + flow(item);
  }
  return out + (value.is_array() ? "]" : "}");
}

}  // namespace

nlohmann::ordered_json recipe_json(const Recipe& recipe) {
  const auto& student = recipe.student;
  Json out = {{"name", recipe.name}, {"seed", recipe.seed}, {"save_init", recipe.save_init},
              {"checkpoint_minutes", recipe.checkpoint_minutes}};
  out["student"] = mixer_json(student);
  for (const auto& spec : student.layers) out["student"]["layers"].push_back(layer_json(spec));
  out["student"]["keep"] = keep_text(student.keep);
  if (student.stepwise.one_by_one) out["student"]["stepwise"] = "one_by_one";
  else if (student.stepwise.any()) out["student"]["stepwise"] = student.stepwise.shares;
  if (student.init == StudentInit::kRandom) out["student"]["init"] = "random";
  out["student"]["start"] = student.start;
  out["data"] = {{"train", sources_json(recipe.data.train)}, {"held_out", recipe.data.held_out},
                 {"calibration_tokens", recipe.data.calibration_tokens}};
  out["stages"] = Json::array();
  for (const auto& stage : recipe.stages) out["stages"].push_back(stage_json(stage));
  return out;
}

std::string resolved_yaml(const Recipe& recipe) {
  const Json document = recipe_json(recipe);
  std::string out;
  for (const auto& [key, value] : document.items()) {
    if (!value.is_structured() || value.empty()) {
      out += cat(key, ": ", flow(value), "\n");
      continue;
    }
    out += key + ":\n";
    for (const auto& [name, item] : value.items()) {
      if (value.is_object()) {
        out += cat("  ", name, ": ", flow(item), "\n");
        continue;
      }
      std::string indent = "- ";
      for (const auto& [field, content] : item.items()) {
        out += cat(indent, field, ": ", flow(content), "\n");
        indent = "  ";
      }
    }
  }
  return out;
}

std::string numbers_text(const std::vector<int>& numbers) {
  std::string out;
  for (size_t first = 0; first < numbers.size();) {
    size_t last = first;
    while (last + 1 < numbers.size() && numbers[last + 1] == numbers[last] + 1) ++last;
    out += cat(out.empty() ? "" : ",", numbers[first], last > first ? cat("-", numbers[last]) : "");
    first = last + 1;
  }
  return out;
}

Result<std::vector<int>> parse_numbers(const std::string& text) {
  const auto bad = [&] { return invalid("'", text, "'; expected numbers and rising ranges such as 0-3,7, every number once"); };
  auto listed = parse_number_list(text);
  if (!listed) return bad();
  std::vector<int> out = std::move(*listed);
  std::sort(out.begin(), out.end());
  if (std::adjacent_find(out.begin(), out.end()) != out.end()) return bad();
  return out;
}

std::string keep_text(const KeepSpec& keep) {
  std::string out;
  switch (keep.kind) {
    case KeepSpec::Kind::kNone: return "none";
    case KeepSpec::Kind::kHeads: return cat("heads:", keep.count);
    case KeepSpec::Kind::kLayers: return cat("layers:", keep.count);
    case KeepSpec::Kind::kFraction: return Json(keep.fraction).dump();
    case KeepSpec::Kind::kList:
      for (const auto& [layer, head] : keep.list) out += cat(out.empty() ? "" : ",", layer, head >= 0 ? cat(".", head) : "");
      return "list:" + out;
  }
  return "none";
}

Result<KeepSpec> parse_keep(const std::string& text) {
  const auto bad = [&] {
    return invalid("keep is '", text, "'; expected none, heads:12, layers:6, a share of the layers such as 0.25, or list:7,18.2 "
                   "(layers, or layer.kv_head)");
  };
  KeepSpec keep;
  if (text == "none" || text == "0") return keep;
  const auto colon = text.find(':');
  const std::string kind = text.substr(0, colon), rest = colon == std::string::npos ? "" : text.substr(colon + 1);
  int64_t count = 0;
  if (kind == "heads" || kind == "layers") {
    if (!parse_count(rest, count) || count < 0 || count > (1 << 20)) return bad();
    keep.kind = count == 0 ? KeepSpec::Kind::kNone : kind == "heads" ? KeepSpec::Kind::kHeads : KeepSpec::Kind::kLayers;
    keep.count = static_cast<int>(count);
    return keep;
  }
  if (colon == std::string::npos && text.find(',') == std::string::npos) {
    if (!parse_number(text, keep.fraction) || keep.fraction <= 0 || keep.fraction > 1) return bad();
    keep.kind = KeepSpec::Kind::kFraction;
    return keep;
  }
  if (colon != std::string::npos && kind != "list") return bad();
  std::stringstream split(colon == std::string::npos ? text : rest);
  keep.kind = KeepSpec::Kind::kList;
  for (std::string item; std::getline(split, item, ',');) {
    const auto dot = item.find('.');
    const std::string layer = item.substr(0, dot), head = dot == std::string::npos ? "" : item.substr(dot + 1);
    const bool digits = !layer.empty() && layer.size() < 6 && layer.find_first_not_of("0123456789") == std::string::npos &&
                        head.size() < 6 && head.find_first_not_of("0123456789") == std::string::npos;
    if (!digits || (dot != std::string::npos && head.empty())) return bad();
    keep.list.emplace_back(std::stoi(layer), head.empty() ? -1 : std::stoi(head));
  }
  if (keep.list.empty()) return bad();
  std::sort(keep.list.begin(), keep.list.end());
  keep.list.erase(std::unique(keep.list.begin(), keep.list.end()), keep.list.end());
  return keep;
}

}  // namespace retort::train
