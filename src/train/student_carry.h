// First values of a student that come from another student, instead of from the teacher: one that keeps the same attention, or more.
//
//   the same mixer over the same kv heads, or over more of them    its values, cut to the heads
//   attention that stays                                           its values; where the other has replaced it, the teacher's
//   a mixer where the other has attention                          starts from that attention (trained or not), as students start from a teacher's
//
// Layer: train.
#pragma once

#include <functional>

#include "base/threads.h"
#include "train/torch_model.h"

namespace retort::train {

struct Carry {
  const TorchModel& before;
  std::string name;                                    // of `before`, for messages
  // What mixers in the place of attention copy: the weights, and the same as parts, by layer (of `before`, of the teacher, or random ones).
  const WeightStore& attention;
  const std::vector<std::vector<PartWeights>>& copied;
  StudentInit init = StudentInit::kTeacher;
  bool starts = true;                                  // false: every part must be in `before` (a draft)
  std::function<Status(int layer, PartWeights&)> teachers;   // fills attention that `before` has not
  CalibrationText text;                                // for what starts anew
  int text_rows = 1, text_seq = 512;
  uint64_t seed = 0;
};

// Fills `parts` [layer][part] of a student of `config`.
Status carry_over(const Carry& carry, const ModelConfig& config, ThreadPool& pool, std::vector<std::vector<PartWeights>>& parts);

// The part of a layer that has all that `part` is, and maybe more kv heads; null: none.
const PartWeights* find_source(const std::vector<PartWeights>& layer, const Part& part);

// The attention of a model's layers as weights by name, f32; only of layers that are attention as a whole. The model must outlive it.
std::unique_ptr<WeightStore> attention_weights(const TorchModel& model);

}  // namespace retort::train
