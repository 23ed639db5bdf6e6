#include "io/hf_writer.h"

#include <algorithm>
#include <filesystem>

#include "base/atomic_file.h"
#include "base/path.h"
#include "io/hf_config.h"
#include "io/tokenizer_files.h"
#include "mixers/list.h"

namespace retort {
namespace {

constexpr const char* kTokenizerFiles[] = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt",     "tokenizer.model",       "chat_template.jinja",     "chat_template.json"};

// A folder is replaced whole, so it may hold nothing but what stands in a model folder: somebody else's files stay.
Status check_replaceable(const std::string& path, const std::map<std::string, std::string>& files) {
  std::error_code failed;
  for (auto it = std::filesystem::directory_iterator(path, failed); !failed && it != std::filesystem::directory_iterator();
       it.increment(failed)) {
    const std::string name = it->path().filename().string();
    const bool known = files.count(name) > 0 || name == "model.safetensors" ||
                       std::find(std::begin(kTokenizerFiles), std::end(kTokenizerFiles), name) != std::end(kTokenizerFiles);
    if (known && it->is_regular_file(failed)) continue;
    return invalid("cannot write the folder ", path, ": it holds '", name, "', which is no file of a written model; name another folder");
  }
  return {};
}

}  // namespace

const char* dtype_name(TensorType type) {
  if (type == TensorType::kBF16) return "bfloat16";
  return type == TensorType::kF16 ? "float16" : "float32";
}

Status write_model_folder(const std::string& path, const ModelFolder& folder) {
  const auto json_text = [](const nlohmann::json& json) {
    return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  };
  std::map<std::string, std::string> files = folder.extra_files;
  files["config.json"] = json_text(folder.config);
  files["generation_config.json"] = json_text(folder.generation_config);
  RETORT_RETURN_IF_ERROR(check_replaceable(path, files));
  RETORT_TRY(auto out, AtomicFolder::create(path));
  for (const auto& [name, content] : files) {
    if (name.empty() || name.find('/') != std::string::npos)
      return internal_error("'", name, "' is no name of a file in a model folder");
    RETORT_RETURN_IF_ERROR(write_text_file(out.path() + "/" + name, content));
  }
  RETORT_RETURN_IF_ERROR(write_safetensors(out.path() + "/model.safetensors", folder.tensors));
  return out.commit();
}

Status write_hf_folder(const std::string& path, const HfFolder& folder) {
  ModelFolder out{config_to_json(folder.config, dtype_name(folder.matrices)), generation_config_to_json(folder.config), {}, folder.extra_files};
  for (const TensorSpec& spec : model_tensors(folder.config)) {
    const TensorType stored = spec.floor == Precision::kF32 ? TensorType::kF32 : folder.matrices;
    out.tensors.push_back(
        SafeTensorSource::from_f32(spec.name, spec.shape, stored, [&folder, spec] { return folder.values(spec); }));
  }
  return write_model_folder(path, out);
}

Result<std::map<std::string, std::string>> read_tokenizer_files(const ModelFiles& files) {
  std::map<std::string, std::string> out;
  if (files.kind == ModelFiles::Kind::kGguf) {
    RETORT_TRY(const auto kind, files.gguf->text_or("tokenizer.ggml.model", "none"));
    if (kind == "none") return out;
    RETORT_TRY(const auto tokenizer, tokenizer_from_gguf(*files.gguf));
    TokenizerFiles texts = tokenizer.to_json();
    out["tokenizer.json"] = std::move(texts.tokenizer_json);
    out["tokenizer_config.json"] = std::move(texts.tokenizer_config_json);
    return out;
  }
  for (const char* name : kTokenizerFiles) {
    const std::string path = files.path + "/" + name;
    if (!path_exists(path)) continue;
    RETORT_TRY(out[name], read_text_file(path));
  }
  return out;
}

}  // namespace retort
