// Which attention of a teacher is worth keeping in a hybrid: every layer or kv head of a student is given back the teacher's attention in
// turn, and what that gains decides.
//
//   kl     how much KL(teacher || student) falls, per token: the whole model's predictions (KL-guided selection)
//   error  how much the squared relative error of that layer's output falls, fed the teacher's own hidden states: seconds, but it does
//          not know what later layers make of an error (eval/layer_match.h)
//
// Layer: eval. Not thread-safe: one call.
#pragma once

#include <functional>
#include <vector>

#include "eval/layer_match.h"
#include "eval/restored_attention.h"

namespace retort {

struct RankedUnit {
  AttentionUnit unit;
  double gain = 0;
};
// Told before every unit; false stops (kInterrupted).
using RankProgress = std::function<bool(int64_t done, const AttentionUnit& unit)>;
// Of the student as it is and of one with attention put back in `layer`; less is better.
using RankMeasure = std::function<Result<double>(const ModelFiles& model, int layer)>;

// The most gain first; equal gains in the order of the layers. `before` is the measure of the student by layer.
Result<std::vector<RankedUnit>> rank_units(const ModelFiles& teacher, const ModelFiles& student, const std::vector<AttentionUnit>& units,
                                           const std::function<double(int layer)>& before, const RankMeasure& measure,
                                           const RankProgress& progress = {});

}  // namespace retort
