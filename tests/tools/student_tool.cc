// Writes a student with random weights and a byte tokenizer, for tests/oracles/export/:
//
//   student_tool CONFIG.json FOLDER        CONFIG.json: as a student's config.json, the fingerprint may be absent
#include <cstdio>

#include "base/mapped_file.h"
#include "io/hf_config.h"
#include "io/json_fields.h"
#include "support/tiny_model.h"

using namespace retort;

namespace {

Status run(const std::string& config, const std::string& folder) {
  RETORT_TRY(const std::string text, read_text_file(config));
  RETORT_TRY(const nlohmann::json json, parse_json_object(config, text));
  RETORT_TRY(const ModelConfig parsed, config_from_json(json, config));
  return test::write_random_model(folder, parsed);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const auto status = run(argv[1], argv[2]);
  if (!status.ok()) std::fprintf(stderr, "student_tool: %s\n", status.error().message.c_str());
  return status.ok() ? 0 : 2;
}
