// transformers' Qwen 3.5 (its text model): gated DeltaNet in every layer, keys and values for every head, norms that multiply by 1 + w.
#include "io/export/builder.h"
#include "io/export/plans.h"
#include "io/hf_config.h"

namespace retort {

Status check_qwen3_5(const ModelConfig& c, const OneMixer& one, const std::string& target) {
  if (one.mixer != "gated_deltanet") return invalid("cannot be written as ", target, ": its mixer is '", one.mixer, "'; recurrent layers there have gated_deltanet");
  if (!one.kept.empty()) return wont_fit(target, cat("layer ", one.kept.front()), "attention", "attention there has an output gate and norms on q and k");
  if (one.fields.at("conv_size") == 0) return wont_fit(target, "field 'conv_size'", 0, "q, k and v there pass a convolution and SiLU");
  if (one.fields.at("allow_neg_eigval") == 1) return wont_fit(target, "field 'allow_neg_eigval'", 1, "beta there is at most 1");
  if (one.fields.at("rope") == 1) return wont_fit(target, "field 'rope'", 1, "the delta rule there rotates nothing");
  return no_qkv_extras(c, target);
}

Result<ExportPlan> plan_qwen3_5(const ModelConfig& c) {
  const std::string target = "Qwen3_5ForCausalLM";
  RETORT_TRY(const OneMixer one, one_mixer(c, target));
  RETORT_RETURN_IF_ERROR(check_qwen3_5(c, one, target));
  ExportPlan plan;
  plan.format = "qwen3_5_text";
  plan.config = common_config(c, target.c_str(), "qwen3_5_text");
  plan.config.update({{"intermediate_size", c.mlp_width}, {"num_attention_heads", c.heads}, {"num_key_value_heads", c.kv_heads}, {"head_dim", c.head_dim},
                      {"hidden_act", "silu"}, {"rms_norm_eps", config_to_json(c).at("rms_norm_eps")}, {"max_position_embeddings", c.context_length},
                      {"rope_parameters", rope_parameters(c)}, {"linear_conv_kernel_dim", one.fields.at("conv_size")},
                      {"linear_key_head_dim", c.head_dim}, {"linear_value_head_dim", c.head_dim}, {"linear_num_key_heads", c.heads},
                      {"linear_num_value_heads", c.heads}, {"layer_types", std::vector<std::string>(static_cast<size_t>(c.layers), "linear_attention")}});
  ExportBuilder out(c);
  out.blocks({"model.embed_tokens", "model.norm", "model.layers.", "input_layernorm", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj",
              "mlp.down_proj", ExportPiece::Change::kMinusOne});
  for (int l = 0; l < c.layers; ++l) {
    const std::string ours = ours_in(c, l), theirs = cat("model.layers.", l, ".linear_attn.");
    using P = ExportPiece;
    const auto every_head = [&](const char* name) { return P::repeat(ours + name, c.kv_heads, c.group()); };
    out.add(theirs + "in_proj_qkv.weight", {P::copy(ours + "q_proj.weight"), every_head("k_proj.weight"), every_head("v_proj.weight")});
    out.conv(theirs + "conv1d.weight", {P::copy(ours + "q_conv1d.weight"), every_head("k_conv1d.weight"), every_head("v_conv1d.weight")});
    out.copy(theirs + "in_proj_z.weight", ours + "g_proj.weight");
    out.add(theirs + "in_proj_a.weight", {every_head("a_proj.weight")});
    out.add(theirs + "in_proj_b.weight", {every_head("b_proj.weight")});
    out.add(theirs + "A_log", {every_head("A_log")});
    out.add(theirs + "dt_bias", {every_head("dt_bias")});
    out.copy(theirs + "norm.weight", ours + "o_norm.weight");
    out.copy(theirs + "out_proj.weight", ours + "o_proj.weight");
  }
  plan.tensors = out.take();
  return plan;
}

}  // namespace retort
