#include "io/model_files.h"

#include <filesystem>
#include <set>

#include "base/mapped_file.h"
#include "base/path.h"
#include "io/export/targets.h"
#include "io/gguf_config.h"
#include "io/hf_config.h"
#include "io/json_fields.h"
#include "mixers/list.h"

namespace retort {
namespace {

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out = "[";
  for (size_t i = 0; i < shape.size(); ++i) out += (i ? ", " : "") + std::to_string(shape[i]);
  return out + "]";
}

// A GGUF's tensors by their own names.
class GgufTensors : public WeightStore {
 public:
  explicit GgufTensors(std::shared_ptr<const GgufFile> file) : file_(std::move(file)) {}
  bool has(const std::string& name) const override { return file_->find_tensor(name) != nullptr; }
  const std::string& path() const override { return file_->path(); }
  std::vector<std::string> names() const override {
    std::vector<std::string> out;
    for (const GgufTensor& tensor : file_->tensors()) out.push_back(tensor.name);
    return out;
  }
  Result<TensorView> tensor(const std::string& name) const override {
    const GgufTensor* found = file_->find_tensor(name);
    if (!found) return invalid(path(), ": tensor '", name, "' is missing");
    return TensorView{name, found->type, found->shape, found->bytes.data()};
  }

 private:
  std::shared_ptr<const GgufFile> file_;
};

// A folder of another class that Retort wrote says so in its config.json; null: it does not.
Result<nlohmann::json> export_note(const std::string& folder) {
  const std::string path = folder + "/config.json";
  RETORT_TRY(const std::string text, read_text_file(path));
  RETORT_TRY(const nlohmann::json root, parse_json_object(path, text));
  return root.value(kExportKey, nlohmann::json());
}

// Folders in this one that have a model: what is meant by the name of a run is its student.
std::string models_inside(const std::string& folder) {
  std::set<std::string> found;
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator(folder, failed)) {
    if (path_exists(entry.path().string() + "/config.json")) found.insert(entry.path().string());
  }
  std::string out;
  for (const std::string& path : found) out += cat(out.empty() ? "" : ", ", path);
  return out;
}

Status open_folder(ModelFiles& out) {
  out.kind = ModelFiles::Kind::kHuggingFace;
  if (!path_exists(out.path + "/config.json")) {
    const std::string inside = models_inside(out.path);
    return invalid(out.path, ": no config.json in this folder", inside.empty() ? ", so it is no model" : cat("; there is one in ", inside));
  }
  RETORT_TRY(const nlohmann::json note, export_note(out.path));
  if (note.is_null()) {
    RETORT_TRY(out.config, read_hf_config(out.path));
    RETORT_TRY(out.weights, open_hf_weights(out.path));
    return {};
  }
  RETORT_TRY(ExportedModel exported, read_exported(note, out.path + "/config.json"));
  out.config = std::move(exported.config);
  RETORT_TRY(auto theirs, open_hf_weights(out.path));
  RETORT_TRY(out.weights, exported_weights(std::move(theirs), std::move(exported.plan), out.config));
  return {};
}

Status open_gguf(ModelFiles& out) {
  out.kind = ModelFiles::Kind::kGguf;
  RETORT_TRY(GgufFile file, GgufFile::open(out.path));
  out.gguf = std::make_shared<const GgufFile>(std::move(file));
  if (!out.gguf->has(kGgufExportKey)) {
    RETORT_TRY(out.config, config_from_gguf(*out.gguf));
    out.weights = gguf_weights(out.gguf, out.config);
    return {};
  }
  const std::string where = cat(out.path, ": metadata key '", kGgufExportKey, "'");
  RETORT_TRY(const std::string text, out.gguf->text(kGgufExportKey));
  RETORT_TRY(const nlohmann::json note, parse_json_object(where, text));
  RETORT_TRY(ExportedModel exported, read_exported(note, where));
  out.config = std::move(exported.config);
  RETORT_TRY(out.weights, exported_weights(std::make_shared<GgufTensors>(out.gguf), std::move(exported.plan), out.config));
  return {};
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
  ModelFiles out;
  out.path = path;
  if (!path_exists(path))
    return invalid(path, ": no such file or folder; a model is a Hugging Face folder or a .gguf file");
  RETORT_RETURN_IF_ERROR(is_folder(path) ? open_folder(out) : open_gguf(out));
  RETORT_RETURN_IF_ERROR(check_weights(out.config, *out.weights));
  return out;
}

}  // namespace retort
