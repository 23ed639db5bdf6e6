// First values of a student: copies of the teacher's projections, constants, and what a mixer learns from data before training.
//
// Layer: train.
#pragma once

#include "base/threads.h"
#include "train/torch_model.h"

namespace retort::train {

// Fills every tensor of the part as its table says. `layer` is the teacher's; deterministic in seed and the tensors' names.
Status fill_start(const WeightStore& teacher, const ModelConfig& config, int layer, uint64_t seed, PartWeights& part);

// Takes the part's values from a student's part of the same mixer that owns all of its kv heads and maybe more.
Status fill_from(const PartWeights& source, PartWeights& part);

// What starts follow from text: constants that the RMS of the teacher's heads sets (InitBlock::Measure), the mixers' own DataStart on the
// teacher's keys and queries, and the volume of recurrences that are too loud (train/start_volume.h). `parts` are [layer][part].
Status start_from_data(const TorchModel& teacher, const Batch& batch, uint64_t seed, ThreadPool& pool, std::vector<std::vector<PartWeights>>& parts);

}  // namespace retort::train
