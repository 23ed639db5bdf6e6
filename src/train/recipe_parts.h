// What recipe.cc reads a recipe with: where text comes from, when a loss falls no more, which teacher follows, where its logits are kept.
//
// Layer: train, torch-free. The first error sticks in the source, as with YamlFields.
#pragma once

#include "io/yaml_fields.h"
#include "train/recipe.h"

namespace retort::train {

inline constexpr const char* kBudgets[] = {"tokens", "steps", "epochs", "minutes"};
bool is_budget(const std::string& key);

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
