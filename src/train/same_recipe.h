// Whether two recipes are one run: between a run and its continuation, and between the ranks of a run.
//
// Layer: train, torch-free.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "train/process_group.h"
#include "train/recipe.h"

namespace retort::train {

// What must not change between a run and its continuation. Texts are compared by content, wherever the files are now; their weights stay.
nlohmann::json comparable(const Recipe& recipe);
nlohmann::json comparable(const nlohmann::ordered_json& written);   // recipe.json, or the copy in train.json

// An error that names the first difference. `before` is comparable; `folder` is the run's.
Status same_recipe(const Recipe& recipe, const nlohmann::json& before, const std::string& folder);
// With the run's recipe.json: all that there is before its first checkpoint. Nothing where there is none, or none that can be read.
Status same_recipe_file(const Recipe& recipe, const std::string& folder);

// That all ranks do the same: "resume", "dry run" or whatever `how` calls it, by the same recipe; only the files may lie elsewhere.
Status same_command(ProcessGroup& group, const Recipe& recipe, const std::string& how);

}  // namespace retort::train
