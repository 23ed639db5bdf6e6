#include <cstdint>
#include <mutex>
#include <unordered_map>

#include "base/path.h"
#include "io/json_fields.h"
#include "io/weights.h"

namespace retort {
namespace {

class HfWeights : public WeightStore {
 public:
  explicit HfWeights(std::string path) : path_(std::move(path)) {}

  bool has(const std::string& name) const override { return tensors_.count(name) > 0; }
  const std::string& path() const override { return path_; }

  std::vector<std::string> names() const override {
    std::vector<std::string> out;
    for (const auto& [name, place] : tensors_) out.push_back(name);
    return out;
  }

  Result<TensorView> tensor(const std::string& name) const override {
    const auto it = tensors_.find(name);
    if (it == tensors_.end()) return invalid(path_, ": tensor '", name, "' is missing");
    const SafeTensor& stored = *it->second;
    const auto type = stored.weight_type();
    if (!type) return invalid(path_, ": tensor '", name, "' is ", stored.dtype, "; weights may be F32, F16 or BF16");
    return TensorView{name, *type, stored.shape, aligned(stored, *type)};
  }

  // Takes `wanted` of the file, or everything when it is empty.
  Status add(SafetensorsFile file, const std::vector<std::string>& wanted) {
    files_.push_back(std::make_unique<SafetensorsFile>(std::move(file)));
    const SafetensorsFile& kept = *files_.back();
    if (wanted.empty()) {
      for (const auto& [name, tensor] : kept.tensors()) tensors_[name] = &tensor;
    }
    for (const std::string& name : wanted) {
      const auto it = kept.tensors().find(name);
      if (it == kept.tensors().end())
        return invalid(kept.path(), ": tensor '", name, "' is missing; the index says it is here");
      tensors_[name] = &it->second;
    }
    return {};
  }

 private:
  // Old writers did not pad the header, so the data may start anywhere.
  const std::byte* aligned(const SafeTensor& tensor, TensorType type) const {
    const auto size = static_cast<uintptr_t>(tensor_type_info(type).block_bytes);
    if (reinterpret_cast<uintptr_t>(tensor.bytes.data()) % size == 0) return tensor.bytes.data();
    const std::lock_guard lock(mutex_);
    auto [it, fresh] = copies_.try_emplace(tensor.name);
    if (fresh) it->second.assign(tensor.bytes.begin(), tensor.bytes.end());
    return it->second.data();
  }

  std::string path_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, const SafeTensor*> tensors_;
  mutable std::mutex mutex_;
  mutable std::unordered_map<std::string, std::vector<std::byte>> copies_;
};

// file name -> tensors, from the index.
Result<std::map<std::string, std::vector<std::string>>> read_index(const std::string& path) {
  RETORT_TRY(const std::string text, read_text_file(path));
  RETORT_TRY(const nlohmann::json root, parse_json_object(path, text));
  RETORT_TRY(const JsonFields map, JsonFields(root, path).object("weight_map"));
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& [tensor, file] : root.at("weight_map").items()) {
    if (!file.is_string()) return invalid(path, ": weight_map '", tensor, "' is not a file name");
    const std::string name = file.get<std::string>();
    if (name.empty() || name.find('/') != std::string::npos || name.find('\0') != std::string::npos) {
      return invalid(path, ": weight_map '", tensor, "' names '", name, "'; expected a file in the same folder");
    }
    shards[name].push_back(tensor);
  }
  return shards;
}

}  // namespace

Result<std::shared_ptr<const WeightStore>> open_hf_weights(const std::string& folder) {
  const std::string single = folder + "/model.safetensors", index = single + ".index.json";
  auto store = std::make_shared<HfWeights>(folder);
  if (path_exists(single)) {
    RETORT_TRY(auto file, SafetensorsFile::open(single));
    RETORT_RETURN_IF_ERROR(store->add(std::move(file), {}));
  } else if (path_exists(index)) {
    RETORT_TRY(const auto shards, read_index(index));
    for (const auto& [name, tensors] : shards) {
      RETORT_TRY(auto file, SafetensorsFile::open(folder + "/" + name));
      RETORT_RETURN_IF_ERROR(store->add(std::move(file), tensors));
    }
  } else {
    return invalid(
        folder, ": neither model.safetensors nor model.safetensors.index.json is there",
        path_exists(folder + "/pytorch_model.bin") ? "; pytorch_model.bin is not read, save it as safetensors" : "");
  }
  return std::shared_ptr<const WeightStore>(std::move(store));
}

}  // namespace retort
