// A model written with its matrices in blocks of 8 or 4 bits: a transformer as llama.cpp knows it, a student as Retort's own GGUF.
//
// Layer: quantise.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "base/threads.h"
#include "io/export/targets.h"
#include "io/model_files.h"
#include "quantise/rounded_weights.h"

namespace retort {

struct QuantiseOptions {
  TensorType type = TensorType::kQ4_1;  // Q8_0, Q4_0 or Q4_1; of most matrices: file_type()
  // Matrices that were rounded already (calibrate.h), of the same model and for the same type. In all others every weight counts alike.
  const RoundedWeights* rounded = nullptr;
  std::optional<Tokenizer> tokenizer;
  // Told before every tensor; false stops.
  std::function<bool(int64_t done, int64_t total, const std::string& name)> progress;
};

struct QuantiseReport {
  std::string format;              // the GGUF's architecture
  int64_t calibrated = 0;          // matrices in 4 bits that were rounded by their inputs
  int64_t rounded = 0;             // matrices that were rounded to the nearest, those in 8 bits among them
};

// Gates, decays, convolutions, norms and biases stay f32 (TensorSpec::floor); embedding, head and feature maps are Q8_0; rows that no block divides F16.
// The file appears whole or not at all.
Result<QuantiseReport> quantise_model(const std::string& path, const ModelFiles& files, const QuantiseOptions& options, ThreadPool& pool);

}  // namespace retort
