#include "train/recipe_parts.h"

#include <algorithm>

namespace retort::train {
namespace {

void read_source(YamlSource& source, const YAML::Node& node, const std::string& key, std::vector<DataSource>& sources) {
  if (node.IsScalar() && !node.Scalar().empty()) return sources.push_back({node.Scalar()});
  if (!node.IsMap()) return source.fail(node, key, key, ": text is a file, {file: a.jsonl, weight: 3}, or a list of these");
  DataSource one("");
  YamlFields fields(source, node, key, key);
  fields.text("file", one.file);
  fields.number("weight", one.weight, 1e-6, 1e9);
  if (one.file.empty()) source.fail(node, key, key, ": an entry needs 'file'");
  fields.finish();
  sources.push_back(std::move(one));
}

void read_when(YamlSource& source, YamlFields& fields, SwitchSpec& change) {
  const YAML::Node node = fields.take("when");
  const std::string key = fields.key_of("when");
  const auto bad = [&] { source.fail(node, key, "'when' must be plateau, {plateau: {every: 100}}, {step: 500} or {fraction: 0.5}"); };
  if (!node.IsDefined() || (node.IsScalar() && node.Scalar() == "plateau")) return;
  if (!node.IsMap() || node.size() != 1 || !node.begin()->first.IsScalar()) return bad();
  const std::string kind = node.begin()->first.Scalar();
  YamlFields when(source, node, key, "'when'");
  if (kind == "plateau") {
    YamlFields plateau(source, when.take("plateau"), key + ".plateau", "'when'");
    read_plateau(plateau, change.plateau);
    plateau.finish();
  } else if (kind == "step") {
    change.when = SwitchSpec::When::kStep;
    when.count("step", change.step, 1);
  } else if (kind == "fraction") {
    change.when = SwitchSpec::When::kFraction;
    when.number("fraction", change.fraction, 0, 0.999999);
  } else {
    bad();
  }
}

}  // namespace

bool is_budget(const std::string& key) { return std::find(std::begin(kBudgets), std::end(kBudgets), key) != std::end(kBudgets); }

void read_sources(YamlSource& source, const YAML::Node& node, const std::string& key, std::vector<DataSource>& sources) {
  if (!node.IsSequence()) return read_source(source, node, key, sources);
  for (const auto& item : node) read_source(source, item, key, sources);
}

void read_stage_data(YamlSource& source, YamlFields& stage, std::vector<DataSource>& sources) {
  if (!stage.has("data")) return;
  const YAML::Node node = stage.take("data");
  const std::string key = stage.key_of("data");
  if (node.IsMap() && !node["file"]) {
    YamlFields fields(source, node, key, key);
    if (fields.has("train")) read_sources(source, fields.take("train"), fields.key_of("train"), sources);
    fields.finish();
  } else {
    read_sources(source, node, key, sources);
  }
  if (sources.empty()) source.fail(node, key, key, " names no text; without it the stage reads the recipe's");
}

void read_plateau(YamlFields& fields, PlateauSpec& plateau) {
  fields.count("every", plateau.every, 1);
  fields.count("patience", plateau.patience, 0);
  fields.number("threshold", plateau.threshold, 0, 1);
}

void read_switch(YamlSource& source, YamlFields& fields, StageSpec& stage) {
  if (!fields.has("switch_teacher")) return;
  const YAML::Node node = fields.take("switch_teacher");
  const std::string key = fields.key_of("switch_teacher");
  SwitchSpec& change = stage.switch_teacher;
  YamlFields own(source, node, key, "'switch_teacher'");
  own.text("to", change.to);
  read_when(source, own, change);
  own.finish();
  if (!source.status.ok()) return;
  const LossSpec* logits = stage.find(LossKind::kLogits);
  if (change.to.empty()) return source.fail(node, key, "'switch_teacher' needs 'to', the second teacher");
  if (stage.layer_wise()) {
    return source.fail(node, key, "'switch_teacher' is for 'logits': stage '", stage.name, "' compares layers, which stand beside those of one teacher");
  }
  if (!logits) return source.fail(node, key, "'switch_teacher' is for 'logits', which stage '", stage.name, "' has not");
  if (!logits->cache.empty()) {
    return source.fail(node, key, "'switch_teacher' and 'cache' exclude each other: a cache holds what one teacher says");
  }
}

void read_cache(YamlSource& source, YamlFields& loss, LossSpec& spec) {
  loss.text("cache", spec.cache);
  loss.whole("top_k", spec.top_k, 1, 1 << 20);
  if (spec.cache.empty() && loss.has("top_k")) {
    source.fail(loss.take("top_k"), loss.key_of("top_k"), "'top_k' is how many logits of a position 'cache' holds; name a folder there");
  }
}

}  // namespace retort::train
