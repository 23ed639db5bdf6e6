// Retort's own GGUF: tensors as they are, the configuration in the note that every export carries. For quantised students, which a
// folder of safetensors has no types for.
#include "io/export/builder.h"
#include "io/export/plans.h"

namespace retort {

Result<ExportPlan> plan_retort(const ModelConfig& c) {
  ExportPlan plan;
  plan.format = kRetortFormat;
  plan.metadata.text("general.architecture", plan.format);
  plan.metadata.text("general.type", "model");
  if (!c.name.empty()) plan.metadata.text("general.name", c.name);
  for (const TensorSpec& spec : model_tensors(c)) {
    plan.tensors.push_back({spec.name, spec.shape, {ExportPiece::copy(spec.name)}, spec.floor});
  }
  return plan;
}

}  // namespace retort
