// Writes a model folder, whole or not at all: config.json, generation_config.json, model.safetensors and whatever else.
//
// Layer: io.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "io/model_files.h"
#include "model/tensor_spec.h"

namespace retort {

struct HfFolder {
  ModelConfig config;
  // What matrices are stored as: kF32, kBF16 or kF16. Tensors whose floor is kF32 (norms, gates, decays) stay F32.
  TensorType matrices = TensorType::kF32;
  // Called once per tensor of model_tensors(config), in that order.
  std::function<Result<std::vector<float>>(const TensorSpec&)> values;
  // Tokenizer, chat template, README: file name -> content. Names without '/'.
  std::map<std::string, std::string> extra_files;
};

// A folder that is already at `path` is replaced.
Status write_hf_folder(const std::string& path, const HfFolder& folder);

// The same for tensors and a config.json of any class.
struct ModelFolder {
  nlohmann::json config, generation_config;
  std::vector<SafeTensorSource> tensors;
  std::map<std::string, std::string> extra_files;
};
Status write_model_folder(const std::string& path, const ModelFolder& folder);

// As config.json calls it: "bfloat16".
const char* dtype_name(TensorType type);

// A model's tokenizer and template, for extra_files: a folder's files as they are, what a GGUF embeds as two such files; empty where it has none.
Result<std::map<std::string, std::string>> read_tokenizer_files(const ModelFiles& files);

}  // namespace retort
