// Classes of flash-linear-attention (0.6): Llama blocks around one recurrent mixer, with plain attention in the layers that are kept.
#include "io/export/builder.h"
#include "io/export/plans.h"

#include "io/hf_config.h"

namespace retort {
namespace {

using P = ExportPiece;

constexpr const char* kProjections[] = {"q_proj", "k_proj", "v_proj", "o_proj"};

struct FlaTarget {
  const ModelConfig& config;
  const OneMixer& one;
  ExportBuilder& out;
  nlohmann::json& json;
  std::string name;  // of the class, for messages

  std::string theirs(int layer) const { return cat("model.layers.", layer, ".attn."); }
  std::string ours(int layer) const { return ours_in(config, layer); }

  template <class T>
  Status field(const char* key, const T& wanted) const {
    const auto& value = one.fields.at(key);
    if (value == wanted) return {};
    return wont_fit(name, cat("field '", key, "'"), value.dump(), cat("only ", wanted, " can be said there"));
  }
  // expand_k and expand_v.
  Status head_widths() {
    RETORT_TRY(const double factor, width_factor(config, int64_t{config.heads} * config.head_dim, name, "expand_k"));
    json["expand_k"] = factor;
    json["expand_v"] = factor;
    return {};
  }
};

Status add_gla(FlaTarget& t) {
  RETORT_RETURN_IF_ERROR(no_qkv_extras(t.config, t.name));
  RETORT_RETURN_IF_ERROR(t.field("gate_rank", 16));
  RETORT_RETURN_IF_ERROR(t.field("gate_temperature", 16.0));
  RETORT_RETURN_IF_ERROR(t.field("rope", 0));
  RETORT_RETURN_IF_ERROR(t.head_widths());
  const int taps = t.one.fields.at("conv_size").get<int>();
  t.json.update({{"num_heads", t.config.heads}, {"num_kv_heads", t.config.kv_heads}, {"feature_map", nullptr}, {"use_short_conv", taps > 0},
                 {"use_output_gate", true}, {"clamp_min", nullptr}, {"use_gk", true}, {"use_gv", false}});
  if (taps > 0) t.json["conv_size"] = taps;
  for (int l = 0; l < t.config.layers; ++l) {
    if (!t.one.recurrent[static_cast<size_t>(l)]) continue;
    const std::string ours = t.ours(l), theirs = t.theirs(l);
    for (const char* name : kProjections) t.out.copy(cat(theirs, name, ".weight"), cat(ours, name, ".weight"));
    for (const char* name : {"gk_proj.0.weight", "gk_proj.1.weight", "gk_proj.1.bias", "g_proj.weight"}) t.out.copy(theirs + name, ours + name);
    t.out.copy(theirs + "g_norm_swish_gate.weight", ours + "g_norm.weight");
    for (const char* name : {"q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight"}) {
      if (taps > 0) t.out.conv(theirs + name, {P::copy(ours + name)});
    }
  }
  return {};
}

// Classes without grouped keys and values: every kv head's rows once per query head.
P for_every_head(const FlaTarget& t, const std::string& ours) { return P::repeat(ours, t.config.kv_heads, t.config.group()); }

Status add_hgrn2(FlaTarget& t) {
  RETORT_RETURN_IF_ERROR(no_qkv_extras(t.config, t.name));
  RETORT_RETURN_IF_ERROR(t.field("lower_bound", 0.0));
  RETORT_RETURN_IF_ERROR(t.field("forget_bias", 0));
  if (t.config.heads * t.config.head_dim != t.config.width) {
    return wont_fit(t.name, "heads x head_dim", t.config.heads * t.config.head_dim, cat("it must be hidden_size there, ", t.config.width));
  }
  t.json.update({{"num_heads", t.config.heads}, {"expand_ratio", t.config.head_dim}, {"use_short_conv", false}, {"use_lower_bound", false}});
  for (int l = 0; l < t.config.layers; ++l) {
    if (!t.one.recurrent[static_cast<size_t>(l)]) continue;
    const std::string ours = t.ours(l), theirs = t.theirs(l);
    for (const char* name : {"q_proj.weight", "o_proj.weight", "g_norm.weight"}) t.out.copy(theirs + name, ours + name);
    for (const char* name : {"f_proj.weight", "i_proj.weight"}) t.out.add(theirs + name, {for_every_head(t, ours + name)});
  }
  return {};
}

Status add_retnet(FlaTarget& t) {
  RETORT_RETURN_IF_ERROR(no_qkv_extras(t.config, t.name));
  RETORT_RETURN_IF_ERROR(t.field("rope", 1));
  RETORT_RETURN_IF_ERROR(t.field("bounded", 0));
  const RopeConfig& rope = t.config.rope;
  if (rope.base != 10000.0 || rope.scaling != RopeConfig::Scaling::kNone) {
    return wont_fit(t.name, "rope_theta", cat(rope.base, rope.scaling == RopeConfig::Scaling::kNone ? "" : ", scaled"), "retention there rotates by 10000, unscaled");
  }
  RETORT_RETURN_IF_ERROR(t.head_widths());
  t.json.update({{"num_heads", t.config.heads}, {"num_kv_heads", t.config.kv_heads}, {"feature_map", nullptr}, {"use_short_conv", false}, {"use_output_gate", true}});
  for (int l = 0; l < t.config.layers; ++l) {
    if (!t.one.recurrent[static_cast<size_t>(l)]) continue;
    const std::string ours = t.ours(l), theirs = t.theirs(l);
    for (const char* name : kProjections) t.out.copy(cat(theirs, name, ".weight"), cat(ours, name, ".weight"));
    t.out.copy(theirs + "g_proj.weight", ours + "g_proj.weight");
    t.out.copy(theirs + "g_norm_swish_gate.weight", ours + "g_norm.weight");
  }
  return {};
}

// q, k, v with their convolutions, and what else has rows per kv head.
Status add_delta(FlaTarget& t, std::initializer_list<const char*> as_they_are, std::initializer_list<const char*> per_kv_head) {
  RETORT_RETURN_IF_ERROR(no_qkv_extras(t.config, t.name));
  const int taps = t.one.fields.at("conv_size").get<int>();
  RETORT_RETURN_IF_ERROR(t.field("rope", 0));
  if (taps == 0) return wont_fit(t.name, "field 'conv_size'", 0, "values there always pass SiLU, which ours do behind a convolution");
  t.json.update({{"num_heads", t.config.heads}, {"use_short_conv", true}, {"conv_size", taps},
                 {"allow_neg_eigval", t.one.fields.at("allow_neg_eigval") == 1}});
  for (int l = 0; l < t.config.layers; ++l) {
    if (!t.one.recurrent[static_cast<size_t>(l)]) continue;
    const std::string ours = t.ours(l), theirs = t.theirs(l);
    t.out.copy(theirs + "q_proj.weight", ours + "q_proj.weight");
    t.out.conv(theirs + "q_conv1d.weight", {P::copy(ours + "q_conv1d.weight")});
    for (const char* name : {"k", "v"}) {
      t.out.add(cat(theirs, name, "_proj.weight"), {for_every_head(t, cat(ours, name, "_proj.weight"))});
      t.out.conv(cat(theirs, name, "_conv1d.weight"), {for_every_head(t, cat(ours, name, "_conv1d.weight"))});
    }
    for (const char* name : as_they_are) t.out.copy(theirs + name, ours + name);
    for (const char* name : per_kv_head) t.out.add(theirs + name, {for_every_head(t, ours + name)});
  }
  return {};
}

Status add_deltanet(FlaTarget& t) {
  RETORT_RETURN_IF_ERROR(t.head_widths());
  const bool gate = t.one.fields.at("output_gate") == 1;
  t.json.update({{"use_gate", gate}, {"use_beta", true}, {"use_output_norm", true}, {"qk_activation", "silu"}, {"qk_norm", "l2"}});
  if (gate) return add_delta(t, {"o_proj.weight", "o_norm.weight", "g_proj.weight"}, {"b_proj.weight"});
  return add_delta(t, {"o_proj.weight", "o_norm.weight"}, {"b_proj.weight"});
}

Status add_gated_deltanet(FlaTarget& t) {
  t.json.update({{"num_v_heads", t.config.heads}, {"head_dim", t.config.head_dim}, {"expand_v", 1.0}, {"use_gate", true}});
  return add_delta(t, {"o_proj.weight", "o_norm.weight", "g_proj.weight"}, {"a_proj.weight", "b_proj.weight", "A_log", "dt_bias"});
}

Status add_hedgehog(FlaTarget& t) {
  RETORT_RETURN_IF_ERROR(no_qkv_extras(t.config, t.name));
  for (const char* key : {"joint", "shared", "output_norm"}) RETORT_RETURN_IF_ERROR(t.field(key, 1));
  RETORT_RETURN_IF_ERROR(t.field("rope", 0));
  RETORT_RETURN_IF_ERROR(t.head_widths());
  t.json.update({{"num_heads", t.config.heads}, {"num_kv_heads", t.config.kv_heads}, {"feature_map", "hedgehog"}, {"tie_feature_map_qk", false},
                 {"norm_q", false}, {"norm_k", false}, {"norm_feature_map", true}});
  const int64_t d = t.config.head_dim;
  for (int l = 0; l < t.config.layers; ++l) {
    if (!t.one.recurrent[static_cast<size_t>(l)]) continue;
    const std::string ours = t.ours(l), theirs = t.theirs(l);
    for (const char* name : kProjections) t.out.copy(cat(theirs, name, ".weight"), cat(ours, name, ".weight"));
    for (const char* side : {"q", "k"}) {
      t.out.add_shaped(cat(theirs, "feature_map_", side, ".layer.weight"), {d, d}, {P::copy(cat(ours, "feature_", side, ".weight"))});
      t.out.add_shaped(cat(theirs, "feature_map_", side, ".layer.bias"), {d}, {P::copy(cat(ours, "feature_", side, ".bias"))});
    }
    t.out.copy(theirs + "norm.weight", ours + "norm.weight");
  }
  return {};
}

struct Class {
  const char* mixer;
  const char* architecture;
  const char* model_type;
  Status (*add)(FlaTarget&);
};
constexpr Class kClasses[] = {
    {"gla", "GLAForCausalLM", "gla", add_gla},
    {"hgrn2", "HGRN2ForCausalLM", "hgrn2", add_hgrn2},
    {"retnet", "RetNetForCausalLM", "retnet", add_retnet},
    {"deltanet", "DeltaNetForCausalLM", "delta_net", add_deltanet},
    {"gated_deltanet", "GatedDeltaNetForCausalLM", "gated_deltanet", add_gated_deltanet},
    {"hedgehog", "LinearAttentionForCausalLM", "linear_attn", add_hedgehog},
};

std::string class_mixers() {
  std::string out;
  for (const Class& c : kClasses) out += cat(out.empty() ? "" : ", ", c.mixer);
  return out;
}

// Llama's attention, rotated; its window, if any, has no sinks.
Status add_attention(FlaTarget& t) {
  RETORT_RETURN_IF_ERROR(plain_attention(t.config, t.one, t.name, /*bias_fits=*/true));
  if (t.one.kept.empty()) return {};
  if (t.config.rope.scaling != RopeConfig::Scaling::kNone) return wont_fit(t.name, "rope_scaling of the attention layers", "set", "attention there has a rope_theta alone");
  if (t.one.kept_window.sinks > 0) return wont_fit(t.name, "window_sinks", t.one.kept_window.sinks, "windows there have no sinks");
  nlohmann::json window = nullptr;
  if (t.one.kept_window.size > 0) window = t.one.kept_window.size;
  t.json["attn"] = {{"layers", t.one.kept}, {"num_heads", t.config.heads}, {"num_kv_heads", t.config.kv_heads},
                    {"qkv_bias", t.config.qkv_bias}, {"window_size", window}, {"rope_theta", t.config.rope.base}};
  for (int l : t.one.kept) {
    for (const char* name : kProjections) t.out.copy(cat(t.theirs(l), name, ".weight"), cat(t.ours(l), name, ".weight"));
    for (const char* name : {"q_proj.bias", "k_proj.bias", "v_proj.bias"}) {
      if (t.out.has(t.ours(l) + name)) t.out.copy(t.theirs(l) + name, t.ours(l) + name);
    }
  }
  return {};
}

}  // namespace

Result<ExportPlan> plan_fla(const ModelConfig& config) {
  RETORT_TRY(const OneMixer one, one_mixer(config, "an fla model"));
  for (const Class& known : kClasses) {
    if (one.mixer != known.mixer) continue;
    ExportPlan plan;
    plan.format = known.model_type;
    plan.config = common_config(config, known.architecture, known.model_type);
    const nlohmann::json ours = config_to_json(config);
    plan.config.update({{"intermediate_size", config.mlp_width}, {"hidden_act", "swish"}, {"norm_eps", ours.at("rms_norm_eps")},
                        {"max_position_embeddings", config.context_length}, {"elementwise_affine", true}, {"attn", nullptr}});
    ExportBuilder builder(config);
    FlaTarget target{config, one, builder, plan.config, known.architecture};
    builder.blocks({"model.embeddings", "model.norm", "model.layers.", "attn_norm", "mlp_norm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"});
    RETORT_RETURN_IF_ERROR(known.add(target));
    RETORT_RETURN_IF_ERROR(add_attention(target));
    plan.tensors = builder.take();
    return plan;
  }
  return invalid("cannot be written for fla: its mixer is '", one.mixer, "'; there are classes for: ", class_mixers());
}

}  // namespace retort
