// First values of a student: copies of the teacher's projections, constants, and what a mixer learns from data before training.
//
// Layer: train.
#pragma once

#include "base/threads.h"
#include "train/torch_model.h"

namespace retort::train {

// Fills every tensor of the part as its table says. `layer` is the teacher's; deterministic in seed and the tensors' names. With kRandom the
// teacher's attention is one that has learnt nothing: weights are normal with a deviation of 1/sqrt(fan in), which leaves sizes as they are
// whatever the width, those of the output projection divided by sqrt(2 L) as in GPT-2, so that L layers of noise do not drown the residual
// stream; biases are 0 and norms 1. Heads and parts cut the same matrices, whatever the plan.
Status fill_start(const WeightStore& teacher, const ModelConfig& config, int layer, uint64_t seed, PartWeights& part,
                  StudentInit init = StudentInit::kTeacher);

// Takes the part's values from a student's part of the same mixer that owns all of its kv heads and maybe more.
Status fill_from(const PartWeights& source, PartWeights& part);

// What starts follow from text: constants that the RMS of the teacher's heads sets (InitBlock::Measure), the mixers' own start_from_data() on
// the keys and queries of the attention that was copied (the teacher's, or a random one), and the volume of recurrences that are too loud
// (train/start_volume.h). `parts` and `copied` are [layer][part].
Status start_from_data(const TorchModel& teacher, const std::vector<std::vector<PartWeights>>& copied, const Batch& batch, uint64_t seed,
                       ThreadPool& pool, std::vector<std::vector<PartWeights>>& parts);

}  // namespace retort::train
