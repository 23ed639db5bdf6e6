// Architectures of llama.cpp. A transformer becomes llama, qwen2 or qwen3. A student becomes a hybrid whose attention layers, if it
// has any, are Llama's:
//
//   granitehybrid   mamba2, its inner width padded with heads of zeros to the 2 x width that llama.cpp asks for
//   qwen35          gated_deltanet in every layer, keys and values for every head
//   arwkv7          rwkv7 in every layer, keys, values, decays and rates for every head
//
// llama.cpp's hybrids want an attention layer: a student without one gets an inert layer at the end, whose output matrices are zero.
#include <cmath>

#include "io/export/builder.h"
#include "io/export/mamba2.h"
#include "io/export/plans.h"

namespace retort {
namespace {

using P = ExportPiece;

struct GgufTarget {
  const ModelConfig& config;
  ExportPlan& plan;
  ExportBuilder& out;

  std::string key(const char* name) const { return plan.format + "." + name; }
  void u32(const char* name, int64_t value) { plan.metadata.u32(key(name), static_cast<uint32_t>(value)); }
  void f32(const char* name, double value) { plan.metadata.f32(key(name), static_cast<float>(value)); }
};

std::string name_in_gguf(const std::string& ours) {
  const std::string name = gguf_name(ours);
  RETORT_CHECK(!name.empty(), ours);
  return name;
}

void add_sizes(GgufTarget& t, int layers) {
  const ModelConfig& c = t.config;
  t.plan.metadata.text("general.architecture", t.plan.format);
  t.plan.metadata.text("general.type", "model");
  if (!c.name.empty()) t.plan.metadata.text("general.name", c.name);
  t.u32("block_count", layers);
  t.u32("context_length", c.context_length);
  t.u32("embedding_length", c.width);
  t.u32("feed_forward_length", c.mlp_width);
  t.u32("vocab_size", c.vocab_size);
  t.f32("attention.layer_norm_rms_epsilon", double{c.norm_eps});
}

void add_attention_sizes(GgufTarget& t) {
  const ModelConfig& c = t.config;
  t.u32("attention.head_count", c.heads);
  t.u32("attention.key_length", c.head_dim);
  t.u32("attention.value_length", c.head_dim);
  t.u32("rope.dimension_count", c.head_dim);
  t.f32("rope.freq_base", c.rope.base);
}

// Scaling by a factor is a key; Llama 3's is a tensor that divides the frequencies, from which a reader finds only the factor.
Status add_rope_scaling(GgufTarget& t, bool reads_factors) {
  const RopeConfig& rope = t.config.rope;
  if (rope.scaling == RopeConfig::Scaling::kLinear) {
    t.plan.metadata.text(t.key("rope.scaling.type"), "linear");
    t.f32("rope.scaling.factor", rope.factor);
  }
  if (rope.scaling != RopeConfig::Scaling::kLlama3) return {};
  const std::string target = cat("a GGUF of ", t.plan.format);
  if (!reads_factors) return wont_fit(target, "rope_scaling", "llama3", "that architecture reads no frequency factors");
  if (rope.low_freq_factor != 1.0 || rope.high_freq_factor != 4.0 || rope.original_context != 8192) {
    return wont_fit(target, "rope_scaling", cat("llama3 with other bounds than 1, 4 and 8192"), "GGUF keeps the resulting factors alone");
  }
  RopeConfig plain = rope;
  plain.scaling = RopeConfig::Scaling::kNone;
  const auto unscaled = plain.frequencies(t.config.head_dim), scaled = rope.frequencies(t.config.head_dim);
  std::vector<P> factors;
  for (size_t i = 0; i < scaled.size(); ++i) factors.push_back(P::constant(1, static_cast<float>(unscaled[i] / scaled[i])));
  t.out.add_shaped("rope_freqs.weight", {static_cast<int64_t>(scaled.size())}, std::move(factors));
  return {};
}

// Embedding, norms, MLPs, head.
void add_blocks(GgufTarget& t, const char* mlp_norm, bool ties = true) {
  t.out.blocks({"token_embd", "output_norm", "blk.", "attn_norm", mlp_norm, "ffn_gate", "ffn_up", "ffn_down", P::Change::kNone, "output.weight", ties});
}

// What the layer's attention has of q, k, v, o, biases and norms. `interleave`: the architecture rotates neighbours.
void add_attention(GgufTarget& t, int layer, bool interleave) {
  const std::string ours = ours_in(t.config, layer), named = cat("model.layers.", layer, ".self_attn.");
  for (const char* name : {"q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight", "q_proj.bias", "k_proj.bias", "v_proj.bias",
                           "q_norm.weight", "k_norm.weight"}) {
    if (!t.out.has(ours + name)) continue;
    const bool query = name[0] == 'q', key = name[0] == 'k';
    const P piece = interleave && (query || key) ? P::interleave(ours + name, query ? t.config.heads : t.config.kv_heads) : P::copy(ours + name);
    t.out.add(name_in_gguf(named + name), {piece});
  }
}

Status add_transformer(GgufTarget& t) {
  const ModelConfig& c = t.config;
  add_sizes(t, c.layers);
  add_attention_sizes(t);
  t.u32("attention.head_count_kv", c.kv_heads);
  const bool llama = t.plan.format == "llama";
  if (t.plan.format == "qwen2" && c.head_dim * c.heads != c.width) {
    return wont_fit("a GGUF of qwen2", "head_dim", c.head_dim, cat("llama.cpp takes ", c.width, " / ", c.heads, " there"));
  }
  RETORT_RETURN_IF_ERROR(add_rope_scaling(t, llama));
  add_blocks(t, "ffn_norm");
  for (int l = 0; l < c.layers; ++l) add_attention(t, l, llama);
  return {};
}

// --- students --------------------------------------------------------------------------------------------------------------

// Layers with attention, and the inert one where there is none.
struct HybridLayers {
  std::vector<bool> recurrent;
  bool inert = false;
  explicit HybridLayers(const OneMixer& one) : recurrent(one.recurrent), inert(one.kept.empty()) {
    if (inert) recurrent.push_back(false);
  }
  int count() const { return static_cast<int>(recurrent.size()); }
};

void add_head_counts(GgufTarget& t, const HybridLayers& layers) {
  std::vector<int32_t> kv_heads;
  for (bool recurrent : layers.recurrent) kv_heads.push_back(recurrent ? 0 : t.config.kv_heads);
  t.plan.metadata.i32s(t.key("attention.head_count_kv"), kv_heads);
}

// Attention's outputs and the MLP's are zero, so the layer adds nothing; what feeds them may be anything.
void add_inert_layer(GgufTarget& t, const char* mlp_norm, int64_t query_rows, bool qk_norms) {
  const ModelConfig& c = t.config;
  const std::string name = cat("blk.", c.layers, ".");
  const int64_t d = c.width, kv = int64_t{c.kv_heads} * c.head_dim;
  const auto zeros = [&](const std::string& stem, int64_t rows, int64_t columns) {
    t.out.add_shaped(name + stem + ".weight", {rows, columns}, {P::constant(rows, 0)});
  };
  const auto ones = [&](const std::string& stem, int64_t n) { t.out.add_shaped(name + stem + ".weight", {n}, {P::constant(n, 1)}); };
  ones("attn_norm", d);
  ones(mlp_norm, d);
  zeros("attn_q", query_rows, d);
  zeros("attn_k", kv, d);
  zeros("attn_v", kv, d);
  zeros("attn_output", d, int64_t{c.heads} * c.head_dim);
  if (qk_norms) ones("attn_q_norm", c.head_dim), ones("attn_k_norm", c.head_dim);
  zeros("ffn_gate", c.mlp_width, d);
  zeros("ffn_up", c.mlp_width, d);
  zeros("ffn_down", d, c.mlp_width);
}

// Each of [z; x; B; C; dt] has rows of zeros for the heads that we do not have: their outputs are 0, and so is the norm of 0.
void add_mamba2(GgufTarget& t, int layer, int64_t padding) {
  const ModelConfig& c = t.config;
  const std::string ours = ours_in(c, layer), theirs = cat("blk.", layer, ".");
  const int64_t h = c.heads;
  P out = P::copy(ours + "out_proj.weight");
  out.fill_columns = padding * c.head_dim;
  t.out.add(theirs + "ssm_in.weight", mamba2_in_proj(c, ours, padding));
  t.out.add(theirs + "ssm_conv1d.weight", mamba2_channels(c, ours + "conv1d.weight", padding));
  t.out.add(theirs + "ssm_conv1d.bias", mamba2_channels(c, ours + "conv1d.bias", padding));
  t.out.add(theirs + "ssm_dt.bias", {P::copy(ours + "dt_bias"), P::constant(padding, 0)});
  t.out.add_shaped(theirs + "ssm_a", {h + padding, 1}, {P::changed(ours + "A_log", P::Change::kMinusExp), P::constant(padding, -1)});
  t.out.add_shaped(theirs + "ssm_d", {h + padding, 1}, {P::copy(ours + "D"), P::constant(padding, 0)});
  t.out.add_shaped(theirs + "ssm_norm.weight", {h + padding, c.head_dim}, {P::copy(ours + "norm.weight"), P::constant(padding, 1)});
  t.out.add(theirs + "ssm_out.weight", {out});
}

Status add_granite_hybrid(GgufTarget& t, const OneMixer& one) {
  const ModelConfig& c = t.config;
  const HybridLayers layers(one);
  if (2 * c.width % c.head_dim || int64_t{c.heads} * c.head_dim > 2 * int64_t{c.width}) {
    return wont_fit("granitehybrid", "heads x head_dim", cat(c.heads, " x ", c.head_dim), cat("llama.cpp's inner width is 2 x ", c.width, ", filled up with whole heads"));
  }
  RETORT_RETURN_IF_ERROR(mamba2_fits(c, one, "granitehybrid"));
  const int64_t padding = 2 * int64_t{c.width} / c.head_dim - c.heads;
  add_sizes(t, layers.count());
  add_attention_sizes(t);
  add_head_counts(t, layers);
  t.u32("ssm.conv_kernel", one.fields.at("conv_size").get<int>());
  t.u32("ssm.inner_size", 2 * int64_t{c.width});
  t.u32("ssm.state_size", c.head_dim);
  t.u32("ssm.time_step_rank", c.heads + padding);
  t.u32("ssm.group_count", c.heads + padding);
  RETORT_RETURN_IF_ERROR(add_rope_scaling(t, true));
  add_blocks(t, "ffn_norm");
  for (int l = 0; l < c.layers; ++l) {
    if (one.recurrent[static_cast<size_t>(l)]) add_mamba2(t, l, padding);
    else add_attention(t, l, /*interleave=*/true);
  }
  if (layers.inert) add_inert_layer(t, "ffn_norm", int64_t{c.heads} * c.head_dim, false);
  return {};
}

void add_gated_deltanet(GgufTarget& t, int layer) {
  const ModelConfig& c = t.config;
  const std::string ours = ours_in(c, layer), theirs = cat("blk.", layer, ".");
  const auto every_head = [&](const char* name) { return P::repeat(ours + name, c.kv_heads, c.group()); };
  P rate = every_head("A_log");
  rate.change = P::Change::kMinusExp;
  t.out.add(theirs + "attn_qkv.weight", {P::copy(ours + "q_proj.weight"), every_head("k_proj.weight"), every_head("v_proj.weight")});
  t.out.add(theirs + "ssm_conv1d.weight", {P::copy(ours + "q_conv1d.weight"), every_head("k_conv1d.weight"), every_head("v_conv1d.weight")});
  t.out.copy(theirs + "attn_gate.weight", ours + "g_proj.weight");
  t.out.add(theirs + "ssm_alpha.weight", {every_head("a_proj.weight")});
  t.out.add(theirs + "ssm_beta.weight", {every_head("b_proj.weight")});
  t.out.add(theirs + "ssm_a", {rate});
  t.out.add(theirs + "ssm_dt.bias", {every_head("dt_bias")});
  t.out.copy(theirs + "ssm_norm.weight", ours + "o_norm.weight");
  t.out.copy(theirs + "ssm_out.weight", ours + "o_proj.weight");
}

Status add_qwen35(GgufTarget& t, const OneMixer& one) {
  const ModelConfig& c = t.config;
  RETORT_RETURN_IF_ERROR(check_qwen3_5(c, one, "qwen35"));
  if (std::abs(c.norm_eps - 1e-6f) > 1e-9f) {
    t.plan.notes.push_back(cat("llama.cpp makes q and k unit vectors with rms_norm_eps, ", c.norm_eps, ", where the student has 1e-06"));
  }
  const HybridLayers layers(one);
  add_sizes(t, layers.count());
  add_attention_sizes(t);
  t.u32("attention.head_count_kv", c.kv_heads);
  t.plan.metadata.booleans(t.key("attention.recurrent_layers"), layers.recurrent);
  t.plan.metadata.i32s(t.key("rope.dimension_sections"), {c.head_dim / 2, 0, 0, 0});  // of positions in text, height, width: text
  t.u32("ssm.conv_kernel", one.fields.at("conv_size").get<int>());
  t.u32("ssm.state_size", c.head_dim);
  t.u32("ssm.group_count", c.heads);
  t.u32("ssm.time_step_rank", c.heads);
  t.u32("ssm.inner_size", int64_t{c.heads} * c.head_dim);
  add_blocks(t, "post_attention_norm");
  for (int l = 0; l < c.layers; ++l) add_gated_deltanet(t, l);
  add_inert_layer(t, "post_attention_norm", 2 * int64_t{c.heads} * c.head_dim, true);
  return {};
}

Status check_arwkv7(const ModelConfig& c, const OneMixer& one) {
  const char* target = "arwkv7";
  if (!one.kept.empty()) return wont_fit(target, cat("layer ", one.kept.front()), "attention", "every layer there is RWKV-7");
  if (int64_t{c.heads} * c.head_dim != c.width) return wont_fit(target, "heads x head_dim", int64_t{c.heads} * c.head_dim, cat("it must be the width there, ", c.width));
  if (c.head_dim != 64) return wont_fit(target, "head_dim", c.head_dim, "llama.cpp's kernel and its norm's epsilon are for 64");
  if (one.fields.at("rope") == 1) return wont_fit(target, "field 'rope'", 1, "RWKV-7 there rotates nothing");
  return no_qkv_extras(c, target);
}

void add_rwkv7(GgufTarget& t, int layer, int64_t unused_rank) {
  const ModelConfig& c = t.config;
  const std::string ours = ours_in(c, layer), theirs = cat("blk.", layer, ".");
  const auto every_head = [&](const std::string& name) { return P::repeat(ours + name, c.kv_heads, c.group()); };
  const auto mix = [&](const char* name) { return P::copy(cat(ours, "x_", name)); };
  t.out.add_shaped(theirs + "time_mix_lerp_fused.weight", {6, 1, 1, c.width}, {mix("r"), mix("w"), mix("k"), mix("v"), mix("a"), mix("g")});
  t.out.copy(theirs + "time_mix_receptance.weight", ours + "r_proj.weight");
  t.out.add(theirs + "time_mix_key.weight", {every_head("k_proj.weight")});
  t.out.add(theirs + "time_mix_value.weight", {every_head("v_proj.weight")});
  for (const char* name : {"w", "a"}) {
    const std::string lora = cat(name, "_lora.lora."), mixed = cat(theirs, "time_mix_", name);
    t.out.add(mixed + "0.weight", {every_head(lora + "2.bias")});
    t.out.copy(mixed + "1.weight", ours + lora + "0.weight");
    t.out.add(mixed + "2.weight", {every_head(lora + "2.weight")});
  }
  // Values of layer 0 are mixed in by sigmoid(v0 + v2 v1 x): not at all.
  t.out.add_shaped(theirs + "time_mix_v0.weight", {c.width}, {P::constant(c.width, -1e4f)});
  t.out.add_shaped(theirs + "time_mix_v1.weight", {unused_rank, c.width}, {P::constant(unused_rank, 0)});
  t.out.add_shaped(theirs + "time_mix_v2.weight", {c.width, unused_rank}, {P::constant(c.width, 0)});
  t.out.copy(theirs + "time_mix_g1.weight", ours + "g_lora.lora.0.weight");
  t.out.copy(theirs + "time_mix_g2.weight", ours + "g_lora.lora.2.weight");
  t.out.add(theirs + "time_mix_k_k.weight", {every_head("k_k")});
  t.out.add(theirs + "time_mix_k_a.weight", {every_head("k_a")});
  t.out.copy(theirs + "time_mix_r_k.weight", ours + "r_k");
  t.out.copy(theirs + "time_mix_ln.weight", ours + "g_norm.weight");
  t.out.copy(theirs + "time_mix_ln.bias", ours + "g_norm.bias");
  t.out.copy(theirs + "time_mix_output.weight", ours + "o_proj.weight");
}

Status add_arwkv7(GgufTarget& t, const OneMixer& one) {
  const ModelConfig& c = t.config;
  RETORT_RETURN_IF_ERROR(check_arwkv7(c, one));
  const auto rank = [&](const char* field) { return one.fields.at(field).get<int64_t>(); };
  const int64_t a_rank = rank("a_low_rank_dim");
  add_sizes(t, c.layers);
  t.u32("attention.head_count", 0);  // asked for, and used for attention only
  t.u32("wkv.head_size", c.head_dim);
  t.u32("token_shift_count", 1);
  t.u32("attention.decay_lora_rank", rank("decay_low_rank_dim"));
  t.u32("attention.iclr_lora_rank", a_rank);
  t.u32("attention.value_residual_mix_lora_rank", a_rank);  // one for all layers: in the first the reader takes iclr's
  t.u32("attention.gate_lora_rank", rank("gate_low_rank_dim"));
  add_blocks(t, "ffn_norm", /*ties=*/false);
  for (int l = 0; l < c.layers; ++l) add_rwkv7(t, l, a_rank);
  return {};
}

}  // namespace

Result<ExportPlan> plan_gguf(const ModelConfig& config) {
  ExportPlan plan;
  ExportBuilder builder(config);
  GgufTarget target{config, plan, builder};
  if (is_plain_transformer(config)) {
    plan.format = config.family == "mistral" ? "llama" : config.family;
    RETORT_RETURN_IF_ERROR(add_transformer(target));
  } else {
    RETORT_TRY(const OneMixer one, one_mixer(config, "a GGUF"));
    if (one.mixer == "mamba2") {
      plan.format = "granitehybrid";
      RETORT_RETURN_IF_ERROR(add_granite_hybrid(target, one));
    } else if (one.mixer == "gated_deltanet") {
      plan.format = "qwen35";
      RETORT_RETURN_IF_ERROR(add_qwen35(target, one));
    } else if (one.mixer == "rwkv7") {
      plan.format = "arwkv7";
      RETORT_RETURN_IF_ERROR(add_arwkv7(target, one));
    } else {
      return invalid("cannot be written as a GGUF: retort writes no architecture of llama.cpp with the mixer '", one.mixer,
                     "'; there are some for: attention, mamba2, gated_deltanet, rwkv7");
    }
  }
  plan.tensors = builder.take();
  return plan;
}

}  // namespace retort
