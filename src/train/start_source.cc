#include "train/start_source.h"

#include "io/hf_config.h"
#include "io/model_files.h"
#include "train/run_state.h"
#include "train/second_teacher.h"

namespace retort::train {
namespace {

// Its parts one by one under names that a person reads in a message.
nlohmann::json described(const ModelConfig& config) {
  nlohmann::json out = config_to_json(config);
  for (const char* key : {"mixers", "distill_config", "fingerprint", "fingerprint_of"}) out.erase(key);
  for (size_t l = 0; l < config.plan.size(); ++l) {
    const auto parts = plan_json({config.plan[l]})[0];
    for (size_t p = 0; p < parts.size(); ++p) out[cat("layer ", l, ", part ", p)] = parts[p];
  }
  return nlohmann::json::parse(out.dump());
}

}  // namespace

Result<nlohmann::json> start_source(const std::string& folder) {
  RETORT_TRY(const ModelFiles files, open_model(folder));
  RETORT_TRY(const std::string hash, hash_weights(*files.weights));
  return nlohmann::json{{"hash", hash}, {"config", described(files.config)}};
}

Status same_start(const std::string& folder, const nlohmann::json& before, const nlohmann::json& now) {
  if (before.is_null() || before == now) return {};
  const auto value = [](const nlohmann::json& source, const char* key) { return source.is_object() ? source.value(key, nlohmann::json()) : nlohmann::json(); };
  std::string difference = recipe_difference(value(before, "config"), value(now, "config"));
  if (difference.empty()) difference = cat("its weights are others (their hash is ", value(now, "hash").dump(), ", was ", value(before, "hash").dump(), ")");
  return invalid("student.start: ", folder, ": not the student that this run started from: ", difference);
}

}  // namespace retort::train
