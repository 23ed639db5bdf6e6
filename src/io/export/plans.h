// One function per target of targets.cc; each file has its class's conditions, names and changes.
//
// Layer: io. Pure.
#pragma once

#include "io/export/builder.h"

namespace retort {

inline constexpr const char* kRetortFormat = "retort";
// Our own tensors by their own names, in a GGUF: what every model fits.
Result<ExportPlan> plan_retort(const ModelConfig& config);
Result<ExportPlan> plan_fla(const ModelConfig& config);
Result<ExportPlan> plan_mistral(const ModelConfig& config);
Result<ExportPlan> plan_xlstm(const ModelConfig& config);
Result<ExportPlan> plan_bamba(const ModelConfig& config);
Result<ExportPlan> plan_granite(const ModelConfig& config);
Result<ExportPlan> plan_qwen3_5(const ModelConfig& config);
// llama, qwen2 or qwen3 for a transformer; granitehybrid and qwen35 for students.
Result<ExportPlan> plan_gguf(const ModelConfig& config);

// What fits Qwen 3.5, in transformers and in llama.cpp.
Status check_qwen3_5(const ModelConfig& config, const OneMixer& one, const std::string& target);

}  // namespace retort
