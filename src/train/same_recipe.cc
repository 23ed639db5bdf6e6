#include "train/same_recipe.h"

#include <algorithm>

#include "base/mapped_file.h"
#include "base/path.h"
#include "train/run_state.h"

namespace retort::train {
namespace {

constexpr const char* kSameNumbers[] = {"max_skipped", "checkpoint_activations"};   // of a stage; the latter is memory for time

nlohmann::json without_places(nlohmann::json recipe) {
  if (!recipe.is_object()) return recipe;
  const auto weights_alone = [](nlohmann::json& holder, const char* key) {
    const nlohmann::json sources = holder.is_object() && holder.contains(key) ? holder[key] : nlohmann::json();
    if (!sources.is_array()) return;
    const auto weighted = [](const nlohmann::json& source) { return source.is_object() && source.contains("weight"); };
    holder.erase(key);
    if (std::none_of(sources.begin(), sources.end(), weighted)) return;
    for (const auto& source : sources) holder["weights"].push_back(weighted(source) ? source["weight"] : nlohmann::json(1.0));
  };
  if (recipe.contains("data")) weights_alone(recipe["data"], "train");
  if (!recipe.contains("stages") || !recipe["stages"].is_array()) return recipe;
  for (auto& stage : recipe["stages"]) weights_alone(stage, "data");
  return recipe;
}

}  // namespace

nlohmann::json comparable(const nlohmann::ordered_json& written) {
  nlohmann::json recipe = without_places(nlohmann::json::parse(written.dump()));
  if (!recipe.is_object()) return recipe;
  recipe.erase("checkpoint_minutes");
  if (!recipe.contains("stages") || !recipe["stages"].is_array()) return recipe;
  for (auto& stage : recipe["stages"]) {
    for (const char* key : kSameNumbers) {
      if (stage.is_object()) stage.erase(key);
    }
  }
  return recipe;
}

nlohmann::json comparable(const Recipe& recipe) { return comparable(recipe_json(recipe)); }

Status same_recipe(const Recipe& recipe, const nlohmann::json& before, const std::string& folder) {
  const auto difference = recipe_difference(before, comparable(recipe));
  if (difference.empty()) return {};
  return invalid(folder, ": the recipe differs from the one this run began with: ", difference, "; go on with the old one, or start anew with --overwrite");
}

Status same_recipe_file(const Recipe& recipe, const std::string& folder) {
  const std::string path = folder + "/recipe.json";
  if (!path_exists(path)) return {};
  RETORT_TRY(const auto text, read_text_file(path));
  const auto before = nlohmann::ordered_json::parse(text, nullptr, false);
  return before.is_object() ? same_recipe(recipe, comparable(before), folder) : Status();
}

Status same_command(ProcessGroup& group, const Recipe& recipe, const std::string& how) {
  const auto written = without_places(nlohmann::json::parse(recipe_json(recipe).dump()));
  return same(group, cat(how, written.dump()), "the recipe, or --resume, --overwrite or --dry-run,");
}

}  // namespace retort::train
