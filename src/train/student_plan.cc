#include "train/student_plan.h"

#include <algorithm>
#include <fnmatch.h>

#include "mixers/list.h"

namespace retort::train {
namespace {

// What trains() knows by name; some have no tensor in some students.
constexpr const char* kGroups[] = {"all", "mixers", "projections", "features", "gates", "attention", "mlp", "norms", "embeddings"};

bool is_group(const std::string& pattern) { return std::find(std::begin(kGroups), std::end(kGroups), pattern) != std::end(kGroups); }

std::string group_names() {
  std::string out;
  for (const char* name : kGroups) out += (out.empty() ? "" : ", ") + std::string(name);
  return out;
}

}  // namespace

Result<ModelConfig> pure_student(const ModelConfig& teacher, const StudentSpec& student) {
  ModelConfig config = teacher;
  for (auto& layer : config.plan) {
    Part part{student.mixer, {}, student.window, student.config};
    if (student.mixer == Attention::kName) part.window = {};
    for (int g = 0; g < config.kv_heads; ++g) part.kv_heads.push_back(g);
    layer.parts = {part};
  }
  RETORT_RETURN_IF_ERROR(validate_plan(config));
  return config;
}

bool reaches(const StageSpec& stage, const std::string& tensor) {
  if (!stage.layer_wise()) return true;
  const auto has = [&](const char* piece) { return tensor.find(piece) != std::string::npos; };
  return has(".mixer.") || has(".self_attn.") || has(".input_layernorm.") || (has("model.layers.") && stage.find(LossKind::kHidden));
}

Status check_trained(const Recipe& recipe, const ModelConfig& student) {
  const auto tensors = model_tensors(student);
  for (const auto& stage : recipe.stages) {
    for (const auto& pattern : stage.train) {
      const bool known = is_group(pattern) || std::any_of(tensors.begin(), tensors.end(), [&](const TensorSpec& spec) {
        return fnmatch(pattern.c_str(), spec.name.c_str(), 0) == 0;
      });
      if (!known) {
        return invalid("recipe: ", stage.name, ".train: no tensor of this student is called '", pattern, "', and the groups are: ", group_names());
      }
    }
    const bool any = std::any_of(tensors.begin(), tensors.end(), [&](const TensorSpec& spec) {
      return trains(stage, spec.name, spec.group) && reaches(stage, spec.name);
    });
    if (!any) return invalid("recipe: stage '", stage.name, "' trains no tensor of this student that its losses reach");
  }
  return {};
}

}  // namespace retort::train
