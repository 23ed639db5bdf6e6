// transformers' Mistral: Llama with the same sliding window in every layer.
#include "io/export/builder.h"
#include "io/export/plans.h"
#include "io/hf_config.h"

namespace retort {
namespace {

Status check_mistral(const ModelConfig& c, const OneMixer& one, const std::string& target) {
  if (one.mixer != "window") return invalid("cannot be written as ", target, ": its mixer is '", one.mixer, "'; layers there have a window");
  if (one.kept_window.sinks > 0) return wont_fit(target, "window_sinks", one.kept_window.sinks, "windows there have no sinks");
  return no_qkv_extras(c, target);
}

}  // namespace

Result<ExportPlan> plan_mistral(const ModelConfig& c) {
  const std::string target = "MistralForCausalLM";
  RETORT_TRY(const OneMixer one, one_mixer(c, target));
  RETORT_RETURN_IF_ERROR(check_mistral(c, one, target));
  ExportPlan plan;
  plan.format = "mistral";
  plan.config = common_config(c, target.c_str(), "mistral");
  plan.config.update({{"intermediate_size", c.mlp_width}, {"num_attention_heads", c.heads}, {"num_key_value_heads", c.kv_heads}, {"head_dim", c.head_dim},
                      {"hidden_act", "silu"}, {"rms_norm_eps", config_to_json(c).at("rms_norm_eps")}, {"max_position_embeddings", c.context_length},
                      {"rope_parameters", rope_parameters(c)}, {"sliding_window", one.kept_window.size}});
  ExportBuilder out(c);
  out.blocks({"model.embed_tokens", "model.norm", "model.layers.", "input_layernorm", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj",
              "mlp.down_proj"});
  for (int l = 0; l < c.layers; ++l) {
    for (const char* name : {"q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight"}) {
      out.copy(cat("model.layers.", l, ".self_attn.", name), ours_in(c, l) + name);
    }
  }
  plan.tensors = out.take();
  return plan;
}

}  // namespace retort
