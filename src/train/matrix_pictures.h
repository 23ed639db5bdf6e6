// The matrices of head_matrices.h, of a teacher and its student.
//
// Layer: train. Every layer is fed with the teacher's hidden state before it, as in layer-wise stages.
#pragma once

#include <span>
#include <vector>

#include "base/threads.h"
#include "train/head_matrices.h"
#include "train/shards.h"

namespace retort::train {

// `tokens` are one sequence. Both models have the same layers. All ranks call it, and all get the same.
Result<std::vector<HeadMatrices>> head_matrices(const TorchModel& teacher, const TorchModel& student, std::span<const int32_t> tokens, ThreadPool& pool,
                                                Shards& shards);

}  // namespace retort::train
