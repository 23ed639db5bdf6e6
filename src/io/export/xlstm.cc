// transformers' xLSTM (the layout of xLSTM 7B): mLSTM in every layer, keys, values and gates for every head.
#include "io/export/builder.h"
#include "io/export/plans.h"
#include "io/hf_config.h"

namespace retort {
namespace {

using P = ExportPiece;

Status check_xlstm(const ModelConfig& c, const OneMixer& one, const std::string& target) {
  if (one.mixer != "mlstm") return invalid("cannot be written as ", target, ": its mixer is '", one.mixer, "'; layers there have mlstm");
  if (!one.kept.empty()) return wont_fit(target, cat("layer ", one.kept.front()), "attention", "every layer there is mlstm");
  if (one.fields.at("coupled") == 1) return wont_fit(target, "field 'coupled'", 1, "the input gate there is its own");
  if (one.fields.at("rope") == 1) return wont_fit(target, "field 'rope'", 1, "nothing is rotated there");
  RETORT_RETURN_IF_ERROR(no_qkv_extras(c, target));
  const int64_t width = int64_t{c.heads} * c.head_dim;
  if (width % 64) return wont_fit(target, "heads x head_dim", width, "it is rounded to a multiple of 64 there");
  return {};
}

}  // namespace

Result<ExportPlan> plan_xlstm(const ModelConfig& c) {
  const std::string target = "xLSTMForCausalLM";
  RETORT_TRY(const OneMixer one, one_mixer(c, target));
  RETORT_RETURN_IF_ERROR(check_xlstm(c, one, target));
  RETORT_TRY(const double factor, width_factor(c, int64_t{c.heads} * c.head_dim, target, "qk_dim_factor"));
  ExportPlan plan;
  plan.format = "xlstm";
  plan.config = common_config(c, target.c_str(), "xlstm");
  // Logits are capped there; at 1e6 the cap is below rounding. The MLP is rounded up to a multiple of itself.
  plan.config.update({{"num_heads", c.heads}, {"embedding_dim", c.width}, {"num_blocks", c.layers}, {"use_bias", false}, {"add_out_norm", true},
                      {"norm_eps", config_to_json(c).at("rms_norm_eps")}, {"qk_dim_factor", factor}, {"v_dim_factor", factor},
                      {"gate_soft_cap", one.fields.at("soft_cap")}, {"output_logit_soft_cap", 1e6}, {"ffn_proj_factor", double(c.mlp_width) / c.width},
                      {"ffn_round_up_to_multiple_of", c.mlp_width}, {"mode", "inference"}, {"weight_mode", "single"},
                      {"autocast_kernel_dtype", "float32"}, {"tie_word_embeddings", false}});
  ExportBuilder out(c);
  BlockNames names{"backbone.embeddings", "backbone.out_norm", "backbone.blocks.", "norm_mlstm", "norm_ffn", "ffn.proj_up_gate", "ffn.proj_up", "ffn.proj_down"};
  names.ties = false;
  out.blocks(names);
  for (int l = 0; l < c.layers; ++l) {
    const std::string ours = ours_in(c, l), theirs = cat("backbone.blocks.", l, ".mlstm_layer.");
    const auto every_head = [&](const char* name) { return P::repeat(ours + name, c.kv_heads, c.group()); };
    out.copy(theirs + "q.weight", ours + "q_proj.weight");
    out.add(theirs + "k.weight", {every_head("k_proj.weight")});
    out.add(theirs + "v.weight", {every_head("v_proj.weight")});
    out.copy(theirs + "ogate_preact.weight", ours + "ogate_proj.weight");
    for (const char* end : {"weight", "bias"}) {
      out.add(cat(theirs, "igate_preact.", end), {every_head(cat("igate_proj.", end).c_str())});
      out.add(cat(theirs, "fgate_preact.", end), {every_head(cat("fgate_proj.", end).c_str())});
    }
    out.copy(theirs + "multihead_norm.weight", ours + "norm.weight");
    out.copy(theirs + "out_proj.weight", ours + "o_proj.weight");
  }
  plan.tensors = out.take();
  return plan;
}

}  // namespace retort
