#include "io/model_files.h"

#include <filesystem>

#include "io/gguf_config.h"
#include "io/hf_config.h"
#include "mixers/list.h"

namespace retort {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

}  // namespace

Status check_weights(const ModelConfig& config, const WeightStore& weights) {
  for (const TensorSpec& spec : model_tensors(config)) {
    if (!weights.has(spec.name)) {
      return invalid(weights.path(), ": tensor '", spec.name, "' is missing; expected shape ", shape_text(spec.shape));
    }
    RETORT_TRY(const TensorView view, weights.tensor(spec.name));
    if (view.shape != spec.shape) {
      return invalid(weights.path(), ": tensor '", spec.name, "' has shape ", shape_text(view.shape), "; expected ",
                     shape_text(spec.shape));
    }
  }
  return {};
}

Result<ModelFiles> open_model(const std::string& path) {
  namespace fs = std::filesystem;
  ModelFiles out;
  out.path = path;
  std::error_code error;
  if (!fs::exists(path, error))
    return invalid(path, ": no such file or folder; a model is a Hugging Face folder or a .gguf file");
  if (fs::is_directory(path, error)) {
    out.kind = ModelFiles::Kind::kHuggingFace;
    RETORT_TRY(out.config, read_hf_config(path));
    RETORT_TRY(out.weights, open_hf_weights(path));
  } else {
    out.kind = ModelFiles::Kind::kGguf;
    RETORT_TRY(GgufFile file, GgufFile::open(path));
    out.gguf = std::make_shared<const GgufFile>(std::move(file));
    RETORT_TRY(out.config, config_from_gguf(*out.gguf));
    out.weights = gguf_weights(out.gguf, out.config);
  }
  RETORT_RETURN_IF_ERROR(check_weights(out.config, *out.weights));
  return out;
}

}  // namespace retort
