// What recipe.cc reads a recipe with, one function for each part that has a meaning of its own.
//
// Layer: train, torch-free. The first error sticks in the source, as with YamlFields.
#pragma once

#include "io/yaml_fields.h"
#include "train/recipe.h"

namespace retort::train {

inline constexpr const char* kBudgets[] = {"tokens", "steps", "epochs", "minutes"};
bool is_budget(const std::string& key);

// A flag's change to the file as it was read.
Status apply_override(YAML::Node& root, const Override& change);

// recipe_student.cc
StudentSpec read_student(YamlSource& source, const YAML::Node& node);

// recipe_stage.cc, recipe_losses.cc
// `shared`: the keys that came from `defaults`.
StageSpec read_stage(YamlSource& source, const YAML::Node& node, const std::string& name, std::span<const std::string> shared);
void read_losses(YamlSource& source, YamlFields& stage, std::vector<LossSpec>& losses);

// A file, {file: a.jsonl, weight: 3}, or a list of these.
void read_sources(YamlSource& source, const YAML::Node& node, const std::string& key, std::vector<DataSource>& sources);
// The same, or {train: ...}, under a stage's `data`.
void read_stage_data(YamlSource& source, YamlFields& stage, std::vector<DataSource>& sources);

// every, patience, threshold
void read_plateau(YamlFields& fields, PlateauSpec& plateau);

// {to: MODEL, when: plateau}; `when` also {plateau: {...}}, {step: 500} or {fraction: 0.5}. All else of the stage has been read.
void read_switch(YamlSource& source, YamlFields& fields, StageSpec& stage);

// cache, top_k
void read_cache(YamlSource& source, YamlFields& loss, LossSpec& spec);

}  // namespace retort::train
