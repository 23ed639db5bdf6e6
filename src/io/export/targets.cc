#include "io/export/targets.h"

#include "io/export/plans.h"
#include "io/export/roundings.h"
#include "io/hf_config.h"
#include "io/hf_writer.h"
#include "io/json_fields.h"
#include "io/quant_encode.h"
#include "io/tokenizer_to_gguf.h"

namespace retort {
namespace {

using Gathered = std::function<Result<std::vector<float>>()>;

// llama.cpp's llama_ftype; for people and file listings.
uint32_t gguf_file_type(TensorType type) {
  switch (type) {
    case TensorType::kF16: return 1;
    case TensorType::kQ4_0: return 2;
    case TensorType::kQ4_1: return 3;
    case TensorType::kQ8_0: return 7;
    case TensorType::kBF16: return 32;
    default: return 0;
  }
}

TensorType stored_as(const ExportTensor& tensor, TensorType matrices) {
  if (tensor.floor == Precision::kF32 || tensor.shape.size() == 1) return TensorType::kF32;
  const TensorTypeInfo& info = tensor_type_info(matrices);
  if (info.block_values == 1) return matrices;
  if (tensor.shape.back() % info.block_values) return TensorType::kF16;
  // The head's errors are every token's: llama.cpp's own quantiser keeps more bits there, too.
  const bool embedding = tensor.name == "token_embd.weight" || tensor.name == "output.weight" || tensor.name == "model.embed_tokens.weight" ||
                         tensor.name == "lm_head.weight";
  return embedding ? TensorType::kQ8_0 : matrices;
}

nlohmann::json what_it_was(const ExportTarget& target, const ModelConfig& config, const ExportPlan& plan) {
  return {{"to", target.name}, {"config", config_to_json(config)}, {"roundings", plan.roundings}};
}

Status write_gguf_export(const std::string& path, const ExportTarget& target, const ModelConfig& config, ExportPlan& plan,
                         const std::function<Gathered(const ExportTensor&)>& gathered, const ExportOptions& options) {
  GgufMetadata& metadata = plan.metadata;
  metadata.u32("general.file_type", gguf_file_type(options.matrices));
  metadata.u32("general.quantization_version", 2);
  if (options.tokenizer) {
    RETORT_RETURN_IF_ERROR(add_tokenizer(metadata, *options.tokenizer, config));
  } else {
    metadata.text("tokenizer.ggml.model", "none");
  }
  if (!is_plain_transformer(config) || plan.format == kRetortFormat) {
    metadata.text(kGgufExportKey, what_it_was(target, config, plan).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
  std::vector<GgufSource> sources;
  for (const ExportTensor& tensor : plan.tensors) {
    TensorType type = stored_as(tensor, options.matrices);
    const bool blocks = tensor_type_info(type).block_values > 1, own = options.encode && blocks;
    if (options.choose && blocks) type = options.choose(tensor, type);
    sources.push_back({tensor.name, type, tensor.shape, [&, type, own, values = gathered(tensor)]() -> Result<std::vector<std::byte>> {
                         RETORT_TRY(const std::vector<float> floats, values());
                         if (own) return options.encode(tensor, type, floats);
                         return encode_values(type, floats);
                       }});
  }
  return write_gguf(path, metadata, sources);
}

}  // namespace

const std::vector<ExportTarget>& export_targets() {
  static const std::vector<ExportTarget> targets = {
      {"gguf", "a .gguf file for llama.cpp", true, plan_gguf},
      {"retort", "a .gguf file for Retort, of any student", true, plan_retort},
      {"fla", "a folder for flash-linear-attention", false, plan_fla},
      {"mistral", "transformers' Mistral", false, plan_mistral},
      {"xlstm", "transformers' xLSTM", false, plan_xlstm},
      {"bamba", "transformers' Bamba", false, plan_bamba},
      {"granite", "transformers' GraniteMoeHybrid", false, plan_granite},
      {"qwen3_5", "transformers' Qwen 3.5", false, plan_qwen3_5},
  };
  return targets;
}

const ExportTarget* find_export_target(const std::string& name) {
  for (const ExportTarget& target : export_targets()) {
    if (name == target.name) return &target;
  }
  return nullptr;
}

Result<WrittenExport> write_export(const std::string& path, const ExportTarget& target, const ModelConfig& config,
                                   const TensorValues& values, const ExportOptions& options) {
  RETORT_TRY(ExportPlan plan, target.plan(config));
  RETORT_TRY(plan.roundings, find_roundings(plan, values));
  const SpecsByName specs = specs_by_name(config);
  const auto gathered = [&](const ExportTensor& tensor) -> Gathered { return [&] { return gather(tensor, specs, values); }; };
  if (target.gguf) {
    RETORT_RETURN_IF_ERROR(write_gguf_export(path, target, config, plan, gathered, options));
    return WrittenExport{plan.format, plan.notes};
  }
  ModelFolder folder{std::move(plan.config), generation_config_to_json(config), {}, options.extra_files};
  folder.config["torch_dtype"] = dtype_name(options.matrices);
  folder.config[kExportKey] = what_it_was(target, config, plan);
  for (const ExportTensor& tensor : plan.tensors) {
    folder.tensors.push_back(SafeTensorSource::from_f32(tensor.name, tensor.shape, stored_as(tensor, options.matrices), gathered(tensor)));
  }
  RETORT_RETURN_IF_ERROR(write_model_folder(path, folder));
  return WrittenExport{plan.format, plan.notes};
}

Result<ExportedModel> read_exported(const nlohmann::json& said, const std::string& where) {
  if (!said.is_object()) return invalid(where, ": ", kExportKey, " is ", said.type_name(), "; expected an object");
  const JsonFields fields(said, cat(where, ": ", kExportKey));
  RETORT_TRY(const std::string to, fields.text("to"));
  const ExportTarget* target = find_export_target(to);
  if (!target) return fields.bad("'to' is '", to, "', which this Retort does not read");
  if (!fields.has("config")) return fields.bad("key 'config' is missing");
  ExportedModel out;
  RETORT_TRY(out.config, config_from_json(fields.at("config"), cat(fields.where(), ": config")));
  RETORT_TRY(out.plan, target->plan(out.config));
  if (fields.has("roundings")) {
    RETORT_TRY(out.plan.roundings, read_roundings(fields.at("roundings"), out.config, fields.where()));
  }
  return out;
}

}  // namespace retort
