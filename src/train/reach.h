// Which tensors a stage's losses depend on, and which of their rows: nothing else trains, nor decays.
//
// Layer: train, torch-free. Pure functions.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "mixers/list.h"
#include "train/recipe.h"

namespace retort::train {

// Numbers [first, first + count) of a tensor, row after row.
struct ElementRange {
  int64_t first = 0;
  int64_t count = 0;
  bool operator==(const ElementRange&) const = default;
};
using Reached = std::map<std::string, std::vector<ElementRange>>;   // by full name; tensors that no loss looks at are absent

// Losses end to end reach everything. Layer-wise ones reach a layer's mixers and the norm before them: all of the mixer, or without its
// output projection (attn_out at the heads), or what the mixing matrix is made of; `hidden` reaches the layer's MLP and its norm too.
Reached reached(const StageSpec& stage, const ModelConfig& student);

// A mixer has one mixing matrix per head: all but those with a decay of its own for every channel.
bool mixes_by_matrix(const Part& part);
// Its rows sum to 1, as those of a softmax.
bool rows_sum_to_one(const Part& part);

// What the mixing matrix of a part depends on, by the part's tensor table; of a tensor that holds values beside keys and queries
// (HeadAxis::kRowsOfBlocks) the rows of the latter.
std::vector<std::vector<ElementRange>> behind_matrix(const ModelConfig& config, const Part& part);

}  // namespace retort::train
