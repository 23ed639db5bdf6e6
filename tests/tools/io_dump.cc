// For tests/oracles/io_files.py: what Retort reads from a file, as raw f32, and a file that it writes.
//
//   io_dump gguf FILE FOLDER          every tensor's values as FOLDER/<name>.f32, and FOLDER/tensors.json
//   io_dump safetensors FILE FOLDER   the same, weights only
//   io_dump model PATH FOLDER         the same by Hugging Face names, through open_model; and FOLDER/config.json
//   io_dump write FILE                three tensors: value i of each is i - 3.3f
#include <cstdio>
#include <fstream>
#include <string>

#include <nlohmann/json.hpp>

#include "io/hf_config.h"
#include "io/model_files.h"

using namespace retort;

namespace {

Status dump(const std::string& folder, const std::vector<TensorView>& views) {
  nlohmann::json list = nlohmann::json::object();
  for (const TensorView& view : views) {
    RETORT_TRY(const auto values, read_f32(view));
    std::ofstream(folder + "/" + view.name + ".f32", std::ios::binary)
        .write(reinterpret_cast<const char*>(values.data()),
               static_cast<std::streamsize>(values.size() * sizeof(float)));
    list[view.name] = {{"type", tensor_type_name(view.type)}, {"shape", view.shape}};
  }
  std::ofstream(folder + "/tensors.json") << list.dump();
  return {};
}

Status run_gguf(const std::string& path, const std::string& folder) {
  RETORT_TRY(const GgufFile file, GgufFile::open(path));
  std::vector<TensorView> views;
  for (const GgufTensor& t : file.tensors()) views.push_back({t.name, t.type, t.shape, t.bytes.data()});
  return dump(folder, views);
}

Status run_safetensors(const std::string& path, const std::string& folder) {
  RETORT_TRY(const SafetensorsFile file, SafetensorsFile::open(path));
  std::vector<TensorView> views;
  for (const auto& [name, t] : file.tensors()) {
    if (t.weight_type()) views.push_back({name, *t.weight_type(), t.shape, t.bytes.data()});
  }
  return dump(folder, views);
}

Status run_model(const std::string& path, const std::string& folder) {
  RETORT_TRY(const ModelFiles model, open_model(path));
  std::ofstream(folder + "/config.json") << config_to_json(model.config).dump(1);
  std::vector<TensorView> views;
  for (const std::string& name : model.weights->names()) {
    RETORT_TRY(TensorView view, model.weights->tensor(name));
    views.push_back(std::move(view));
  }
  return dump(folder, views);
}

Status run_write(const std::string& path) {
  std::vector<SafeTensorSource> tensors;
  for (const TensorType type : {TensorType::kBF16, TensorType::kF32, TensorType::kF16}) {
    tensors.push_back(SafeTensorSource::from_f32(std::string("t.") + tensor_type_name(type), {3, 5}, type,
                                                 []() -> Result<std::vector<float>> {
                                                   std::vector<float> values(15);
                                                   for (size_t i = 0; i < values.size(); ++i)
                                                     values[i] = static_cast<float>(i) - 3.3f;
                                                   return values;
                                                 }));
  }
  return write_safetensors(path, tensors, {{"by", "retort"}});
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  Status status = invalid("usage: io_dump gguf|safetensors|model PATH FOLDER, io_dump write FILE");
  if (mode == "gguf" && argc == 4) status = run_gguf(argv[2], argv[3]);
  if (mode == "safetensors" && argc == 4) status = run_safetensors(argv[2], argv[3]);
  if (mode == "model" && argc == 4) status = run_model(argv[2], argv[3]);
  if (mode == "write" && argc == 3) status = run_write(argv[2]);
  if (!status.ok()) std::fprintf(stderr, "io_dump: %s\n", status.error().message.c_str());
  return status.ok() ? 0 : 2;
}
