#include "train/recipe.h"

#include <algorithm>
#include <fnmatch.h>

#include "base/mapped_file.h"
#include "train/recipe_parts.h"

namespace retort::train {
namespace {

constexpr int64_t kMostCalibrationTokens = 1'000'000;  // the teacher's states at all of them are held at once

DataSpec read_data(YamlSource& source, const YAML::Node& node) {
  DataSpec data;
  YamlFields fields(source, node, "data", "data");
  if (fields.has("train")) read_sources(source, fields.take("train"), fields.key_of("train"), data.train);
  fields.number("held_out", data.held_out, 0, 0.9);
  fields.count("calibration_tokens", data.calibration_tokens, 256, kMostCalibrationTokens);
  fields.finish();
  return data;
}

// Adds what the stage does not say itself, and gives the keys that it added. The stage's own nodes stay, and with them their places in the file.
std::vector<std::string> add_defaults(YAML::Node stage, const YAML::Node& defaults) {
  std::vector<std::string> own, added;
  for (const auto& entry : stage) own.push_back(entry.first.IsScalar() ? entry.first.Scalar() : "");
  const bool own_budget = std::any_of(own.begin(), own.end(), is_budget);
  for (const auto& entry : defaults) {
    const std::string name = entry.first.IsScalar() ? entry.first.Scalar() : "?";
    if (std::find(own.begin(), own.end(), name) != own.end() || (own_budget && is_budget(name))) continue;
    stage[name] = entry.second;
    added.push_back(name);
  }
  return added;
}

void read_stages(YamlSource& source, const YAML::Node& root, Recipe& recipe) {
  const YAML::Node stages = root["stages"];
  const YAML::Node defaults = root["defaults"].IsDefined() ? root["defaults"] : YAML::Node(YAML::NodeType::Map);
  if (!defaults.IsMap()) return source.fail(defaults, "defaults", "'defaults' must be a mapping of stage keys");
  if (!stages.IsDefined()) return source.fail(root, "stages", "a recipe needs 'stages', a list");
  if (!stages.IsSequence()) return source.fail(stages, "stages", "'stages' must be a list (each entry starts with '- ')");
  for (const auto& node : stages) {
    if (!node.IsMap() || !node["name"] || !node["name"].IsScalar()) {
      return source.fail(node, "stages", "every stage is a mapping with a 'name'");
    }
    const std::string name = node["name"].Scalar();
    const bool clean = !name.empty() && name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == std::string::npos;
    if (!clean || name == "student" || name == "data" || name == "defaults") {
      return source.fail(node["name"], "stages", "'", name, "' cannot be the name of a stage: use letters, digits, '-' and '_'");
    }
    for (const auto& other : recipe.stages) {
      if (other.name == name) return source.fail(node["name"], "stages", "two stages are called '", name, "'");
    }
    const auto shared = add_defaults(node, defaults);
    recipe.stages.push_back(read_stage(source, node, name, shared));
    if (!source.status.ok()) return;
  }
}

Result<Recipe> read_recipe(const std::string& text, const std::string& path, const std::vector<Override>& overrides) {
  YAML::Node root = YAML::Load(text);
  if (!root.IsMap()) return invalid(path, ":1: a recipe is a mapping with 'name', 'student', 'data' and 'stages'");
  YamlSource source{path, {}, {}};
  for (const auto& change : overrides) {
    RETORT_RETURN_IF_ERROR(apply_override(root, change));
    source.overridden.emplace_back(change.key, change.flag);
  }
  Recipe recipe;
  recipe.path = path;
  YamlFields fields(source, root, "", "recipe");
  fields.text("name", recipe.name);
  fields.seed("seed", recipe.seed);
  fields.flag("save_init", recipe.save_init);
  fields.number("checkpoint_minutes", recipe.checkpoint_minutes, 0, 1e6);
  if (!fields.has("name")) source.fail(root, "name", "a recipe needs a 'name'");
  fields.has("defaults");
  fields.has("stages");
  const YAML::Node student = fields.take("student"), data = fields.take("data");
  fields.finish();
  if (source.status.ok()) recipe.student = read_student(source, student.IsDefined() ? student : YAML::Node(YAML::NodeType::Map));
  if (source.status.ok()) recipe.data = read_data(source, data.IsDefined() ? data : YAML::Node(YAML::NodeType::Map));
  if (source.status.ok()) read_stages(source, root, recipe);
  RETORT_RETURN_IF_ERROR(source.status);
  return recipe;
}

}  // namespace

std::vector<double> weights_of(const std::vector<DataSource>& sources) {
  std::vector<double> out;
  if (std::none_of(sources.begin(), sources.end(), [](const DataSource& s) { return s.weight > 0; })) return out;
  for (const auto& source : sources) out.push_back(source.weight > 0 ? source.weight : 1);
  return out;
}

Result<Recipe> parse_recipe(const std::string& text, const std::string& path, const std::vector<Override>& overrides) {
  try {
    return read_recipe(text, path, overrides);
  } catch (const YAML::Exception& error) {
    return invalid(path, ":", error.mark.line + 1, ": not YAML: ", error.msg);
  }
}

Result<Recipe> load_recipe(const std::string& path, const std::vector<Override>& overrides) {
  RETORT_TRY(const auto text, read_text_file(path, size_t{1} << 20));
  return parse_recipe(text, path, overrides);
}

bool trains(const StageSpec& stage, const std::string& tensor, TrainGroup group) {
  const auto has = [&](const char* piece) { return tensor.find(piece) != std::string::npos; };
  const bool mixer = has(".mixer."), norm = has("layernorm.") || tensor == "model.norm.weight";
  return std::any_of(stage.train.begin(), stage.train.end(), [&](const std::string& pattern) {
    if (pattern == "all") return true;
    if (pattern == "mixers") return mixer;
    if (pattern == "projections") return mixer && group == TrainGroup::kProjection;
    if (pattern == "features") return mixer && group == TrainGroup::kFeature;
    if (pattern == "gates") return mixer && group == TrainGroup::kGate;
    if (pattern == "attention") return has(".self_attn.");
    if (pattern == "mlp") return has(".mlp.");
    if (pattern == "norms") return norm;
    if (pattern == "embeddings") return has("embed_tokens.") || has("lm_head.");
    return fnmatch(pattern.c_str(), tensor.c_str(), 0) == 0;
  });
}

}  // namespace retort::train
