// Which matrices a stage's low-rank updates sit on ("LoRA", Hu et al. 2021).
//
// q, k, v and o are what starts from the teacher's projections of that name, whatever a mixer calls it: of Mamba-2's in_proj the rows of C, B and x. They
// are meant of mixers and of attention that stays. gate, up and down are the MLPs'. Anything else is a glob on tensor names.
//
// Layer: train, torch-free. Pure functions.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "model/config.h"
#include "model/tensor_spec.h"
#include "train/recipe.h"

namespace retort::train {

// Rows [first_row, first_row + rows) of a matrix, with an update A [r, columns], B [rows, r] of their own.
struct LoraTarget {
  std::string tensor;
  std::string name;               // the tensor's, or, of some of its rows, with what they are: "....in_proj.weight.q"
  TrainGroup group = TrainGroup::kBody;
  int64_t first_row = 0, rows = 0, columns = 0;
};

// In the order of the student's tensors, of one in the order of `on`; none without LoRA. Errors: an entry of `on` that names no matrix that the stage's losses reach, a matrix
// that the stage trains itself.
Result<std::vector<LoraTarget>> lora_targets(const StageSpec& stage, const ModelConfig& student);

// Whether `on` can name attention's projections.
bool adapts_attention(const StageSpec& stage);

}  // namespace retort::train
