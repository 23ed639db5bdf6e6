// Writes a student with random weights and a byte tokenizer, for tests/oracles/export/:
//
//   student_tool CONFIG.json FOLDER        CONFIG.json: as a student's config.json, without a fingerprint
#include <cstdio>

#include "base/mapped_file.h"
#include "io/hf_config.h"
#include "io/json_fields.h"
#include "mixers/list.h"
#include "support/tiny_model.h"

using namespace retort;

namespace {

Part part_of(nlohmann::json fields) {
  const auto take = [&](const char* key, auto otherwise) {
    const auto value = fields.value(key, otherwise);
    fields.erase(key);
    return value;
  };
  Part part;
  part.mixer = take("mixer", std::string());
  part.kv_heads = take("kv_heads", std::vector<int>());
  part.window = {take("window", 0), take("window_sinks", 0)};
  part.config = std::move(fields);
  return part;
}

Status run(const std::string& path, const std::string& folder) {
  RETORT_TRY(const std::string text, read_text_file(path));
  RETORT_TRY(nlohmann::json json, parse_json_object(path, text));
  const nlohmann::json mixers = json.at("mixers");
  // Its teacher, and then other parts: a student would have to come with its fingerprint.
  json["model_type"] = json.at("teacher_model_type");
  json.erase("mixers");
  RETORT_TRY(ModelConfig config, config_from_json(json, path));
  config.plan.clear();
  for (const auto& layer : mixers) {
    config.plan.emplace_back();
    for (const auto& part : layer) config.plan.back().parts.push_back(part_of(part));
  }
  RETORT_RETURN_IF_ERROR(validate_plan(config));
  return test::write_random_model(folder, config);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const auto status = run(argv[1], argv[2]);
  if (!status.ok()) std::fprintf(stderr, "student_tool: %s\n", status.error().message.c_str());
  return status.ok() ? 0 : 2;
}
