// A model written with its matrices in blocks of 8 or 4 bits: a transformer as llama.cpp knows it, a student as Retort's own GGUF.
//
// Layer: quantise.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "io/export/targets.h"
#include "io/model_files.h"
#include "quantise/input_moments.h"

namespace retort {

struct QuantiseOptions {
  TensorType type = TensorType::kQ4_1;  // Q8_0, Q4_0 or Q4_1
  // What the matrices are applied to; unset: every weight counts alike. Of the same model.
  const MomentsByTensor* moments = nullptr;
  std::optional<Tokenizer> tokenizer;
  // Told before every tensor; false stops.
  std::function<bool(int64_t done, int64_t total, const std::string& name)> progress;
};

struct QuantiseReport {
  std::string format;              // the GGUF's architecture
  int64_t calibrated = 0;          // matrices that were rounded by their inputs
  int64_t rounded = 0;             // and those that were not, the head's among them
};

// Gates, decays, convolutions, norms and biases stay f32 (TensorSpec::floor); embedding and head are Q8_0; rows that no block divides F16.
// The file appears whole or not at all.
Result<QuantiseReport> quantise_model(const std::string& path, const ModelFiles& files, const QuantiseOptions& options, ThreadPool& pool);

}  // namespace retort
