// Stepwise conversion ("Mamba in the Llama", section 5.3 and its released recipes): the first stage of a recipe runs once for each step, with less
// attention each time, until the layout of `keep`. Weights go on from step to step (Backend::advance), and so does the reading of the text; the
// optimiser begins anew.
//
//   keep: 0.5, stepwise: [0.75]         two steps, the stage's whole budget each: attention in 3/4, then in half of the layers
//   keep: none, stepwise: one_by_one    a step for every layer that `keep` replaces, by (number of trailing one-bits of i, i): 0, 2, 4 ..., then
//                                       1, 5, 9 ..., then 3, 11 ...; each with its share of the budget
//
// A step that keeps a share keeps those layers, interleaved (model/layout.h), and all that later steps keep: what was replaced never comes back.
//
// Layer: train, torch-free. Pure functions.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "train/recipe.h"

namespace retort::train {

struct Step {
  std::string name;               // "0.75", "none"; one by one: "layer4"
  KeepSpec keep;                  // as student.keep
  std::vector<LayerPlan> plan;
  std::vector<int> replaced;      // the layers that this step is the first to replace
  std::vector<int> attention;     // those without a mixer yet
};

// None without student.stepwise. `pure` is pure_student().
Result<std::vector<Step>> steps_of(const StudentSpec& student, const ModelConfig& pure);

// The recipe as it runs: its first stage once for each step, called "STAGE[STEP]". No steps: as it is.
Result<Recipe> with_steps(const Recipe& recipe, const std::vector<Step>& steps);

// Which stage of the recipe the i-th one is as it runs in `steps` steps, or in none.
inline size_t written_stage(size_t i, size_t steps) { return steps <= 1 ? i : i < steps ? 0 : i - (steps - 1); }

// For train.json and --dry-run: [{"step", "replaces", "attention"}].
nlohmann::ordered_json steps_json(const std::vector<Step>& steps);

}  // namespace retort::train
