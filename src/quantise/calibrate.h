// Rounds a model's matrices layer by layer, by what they are applied to on a text once the layers before are rounded.
//
// Layer: quantise. Not thread-safe; the work inside uses the pool.
#pragma once

#include <functional>
#include <memory>
#include <span>

#include "io/model_files.h"
#include "quantise/rounded_weights.h"
#include "runtime/model.h"

namespace retort {

struct CalibrationOptions {
  TensorType type = TensorType::kQ4_1;  // of most matrices: file_type()
  int64_t window = 2048;                // tokens of the text that follow each other; every window starts from an empty state
  // Told before every layer; false stops (kInterrupted).
  std::function<bool(int layer)> progress;
};

// The memory is that of one layer's moments, of the text's hidden states and of the rounded matrices.
Result<std::shared_ptr<const RoundedWeights>> calibrate(const ModelFiles& files, std::span<const int> tokens, const CalibrationOptions& options,
                                                        ThreadPool& pool);

}  // namespace retort
