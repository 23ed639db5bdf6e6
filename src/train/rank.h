// Which attention to keep: the error that each layer and each kv head of a student brings, measured against the teacher.
//
// Layer: train.
#pragma once

#include "base/threads.h"
#include "train/torch_model.h"

namespace retort::train {

struct RankedErrors {
  std::vector<double> layers;                 // relative squared error of each layer's mixer output
  std::vector<std::vector<double>> heads;     // [layer][kv head]: how much of it goes when that head is exact
};

// Every layer of the student fed with the teacher's input. `parts` are [layer][part], and own all kv heads.
Result<RankedErrors> measure_errors(const TorchModel& teacher, const std::vector<std::vector<PartWeights>>& parts, const Batch& batch,
                                    ThreadPool& pool);

// What to keep, best first: (layer, kv head), kv head -1 for a whole layer. `config` is the student's; what is attention there is not ranked.
std::vector<std::pair<int, int>> choose_kept(const KeepSpec& keep, const ModelConfig& config, const RankedErrors& errors);

}  // namespace retort::train
