// transformers' Bamba and GraniteMoeHybrid: Mamba-2 beside attention. Ours has one group per head, which both normalise by itself.
#include <cmath>

#include "io/export/builder.h"
#include "io/export/mamba2.h"
#include "io/export/plans.h"
#include "io/hf_config.h"

namespace retort {
namespace {

Status check_bamba(const ModelConfig& c, const OneMixer& one, const std::string& target) {
  if (one.mixer != "mamba2") return invalid("cannot be written as ", target, ": its mixer is '", one.mixer, "'; recurrent layers there have mamba2");
  if (int64_t{c.heads} * c.head_dim % c.width) {
    return wont_fit(target, "heads x head_dim", c.heads * c.head_dim, cat("it must be a multiple of hidden_size there, ", c.width));
  }
  RETORT_RETURN_IF_ERROR(mamba2_fits(c, one, target));
  return plain_attention(c, one, target, /*bias_fits=*/false);
}

void add_mixers(ExportBuilder& out, const OneMixer& one) {
  const ModelConfig& c = out.config();
  for (int l = 0; l < c.layers; ++l) {
    const std::string ours = ours_in(c, l);
    const std::string theirs = cat("model.layers.", l, one.recurrent[static_cast<size_t>(l)] ? ".mamba." : ".self_attn.");
    if (!one.recurrent[static_cast<size_t>(l)]) {
      for (const char* name : {"q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight"}) out.copy(theirs + name, ours + name);
      continue;
    }
    for (const char* name : {"dt_bias", "A_log", "D", "norm.weight", "out_proj.weight"}) out.copy(theirs + name, ours + name);
    out.add(theirs + "in_proj.weight", mamba2_in_proj(c, ours, 0));
    out.add(theirs + "conv1d.bias", mamba2_channels(c, ours + "conv1d.bias", 0));
    out.conv(theirs + "conv1d.weight", mamba2_channels(c, ours + "conv1d.weight", 0));
  }
}

// What the two classes call alike.
nlohmann::json shared_config(const ModelConfig& c, const OneMixer& one, const char* architecture, const char* model_type) {
  nlohmann::json json = common_config(c, architecture, model_type);
  json.update({{"intermediate_size", c.mlp_width}, {"num_attention_heads", c.heads}, {"num_key_value_heads", c.kv_heads}, {"hidden_act", "silu"},
               {"rms_norm_eps", config_to_json(c).at("rms_norm_eps")}, {"max_position_embeddings", c.context_length}, {"attention_bias", false},
               {"rope_parameters", rope_parameters(c)}, {"mamba_n_heads", c.heads}, {"mamba_n_groups", c.heads}, {"mamba_d_state", c.head_dim},
               {"mamba_d_head", c.head_dim}, {"mamba_d_conv", one.fields.at("conv_size")}, {"mamba_expand", c.heads * c.head_dim / c.width},
               {"mamba_conv_bias", true}, {"mamba_proj_bias", false}});
  return json;
}

}  // namespace

Result<ExportPlan> plan_bamba(const ModelConfig& c) {
  RETORT_TRY(const OneMixer one, one_mixer(c, "BambaForCausalLM"));
  RETORT_RETURN_IF_ERROR(check_bamba(c, one, "BambaForCausalLM"));
  ExportPlan plan;
  plan.format = "bamba";
  plan.config = shared_config(c, one, "BambaForCausalLM", "bamba");
  plan.config.update({{"attn_layer_indices", one.kept}, {"mlp_bias", false}});
  ExportBuilder out(c);
  out.blocks({"model.embed_tokens", "model.final_layernorm", "model.layers.", "input_layernorm", "pre_ff_layernorm", "feed_forward.gate_proj",
              "feed_forward.up_proj", "feed_forward.down_proj"});
  add_mixers(out, one);
  plan.tensors = out.take();
  return plan;
}

Result<ExportPlan> plan_granite(const ModelConfig& c) {
  RETORT_TRY(const OneMixer one, one_mixer(c, "GraniteMoeHybridForCausalLM"));
  RETORT_RETURN_IF_ERROR(check_bamba(c, one, "GraniteMoeHybridForCausalLM"));
  ExportPlan plan;
  plan.format = "granitemoehybrid";
  plan.config = shared_config(c, one, "GraniteMoeHybridForCausalLM", "granitemoehybrid");
  nlohmann::json types = nlohmann::json::array();
  for (bool recurrent : one.recurrent) types.push_back(recurrent ? "mamba" : "attention");
  plan.config.update({{"layer_types", types}, {"num_local_experts", 0}, {"num_experts_per_tok", 0}, {"shared_intermediate_size", c.mlp_width},
                      {"position_embedding_type", "rope"}, {"attention_multiplier", 1.0 / std::sqrt(double(c.head_dim))},
                      {"embedding_multiplier", 1.0}, {"residual_multiplier", 1.0}, {"logits_scaling", 1.0}});
  ExportBuilder out(c);
  out.blocks({"model.embed_tokens", "model.norm", "model.layers.", "input_layernorm", "post_attention_layernorm", "shared_mlp.input_linear",
              "shared_mlp.input_linear", "shared_mlp.output_linear"});
  add_mixers(out, one);
  plan.tensors = out.take();
  return plan;
}

}  // namespace retort
