// Opens what a command line calls MODEL: a Hugging Face folder or a .gguf file, checked to be complete; also those of io/export/.
//
// Layer: io. Thread-safe after opening.
#pragma once

#include <memory>
#include <string>

#include "io/weights.h"
#include "model/config.h"

namespace retort {

struct ModelFiles {
  enum class Kind { kHuggingFace, kGguf };
  Kind kind = Kind::kHuggingFace;
  std::string path;  // the folder, or the .gguf file
  ModelConfig config;
  std::shared_ptr<const WeightStore> weights;
  std::shared_ptr<const GgufFile> gguf;  // null for a folder; has the tokenizer's metadata
};

// Every tensor that the configuration asks for is present with the right shape; tensors beyond those are ignored.
Result<ModelFiles> open_model(const std::string& path);

// The check by itself.
Status check_weights(const ModelConfig& config, const WeightStore& weights);

}  // namespace retort
