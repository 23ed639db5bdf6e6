#include "io/export/builder.h"

#include "io/hf_config.h"

namespace retort {
namespace {

std::string with_window(const Part& part) { return cat("mixer '", part.mixer, "' beside a window of ", part.window.size); }

}  // namespace

void ExportBuilder::add_shaped(const std::string& theirs, std::vector<int64_t> shape, std::vector<ExportPiece> pieces) {
  ExportTensor tensor{theirs, {}, std::move(pieces), Precision::kF32};
  int64_t rows = 0;
  bool sourced = false;
  for (const ExportPiece& piece : tensor.pieces) {
    if (piece.source.empty()) {
      rows += piece.fill_rows;
      continue;
    }
    const TensorSpec& spec = specs_.at(piece.source);
    rows += (piece.rows > 0 ? piece.rows : spec.shape[0] - piece.first) * piece.times;
    if (tensor.shape.empty()) {
      tensor.shape = spec.shape;
      if (tensor.shape.size() > 1) tensor.shape.back() += piece.fill_columns;
    }
    // A matrix that also has a few rows of ours in f32 (mamba2's steps) is a matrix.
    if (spec.floor == Precision::kQuantised) tensor.floor = Precision::kQuantised;
    sourced = true;
  }
  if (!sourced) tensor.floor = Precision::kQuantised;
  if (!shape.empty()) {
    tensor.shape = std::move(shape);
  } else {
    RETORT_CHECK(!tensor.shape.empty(), theirs);
    tensor.shape[0] = rows;
  }
  tensors_.push_back(std::move(tensor));
}

void ExportBuilder::conv(const std::string& theirs, std::vector<ExportPiece> pieces) {
  add(theirs, std::move(pieces));
  auto& shape = tensors_.back().shape;
  shape.insert(shape.begin() + 1, 1);
}

void ExportBuilder::blocks(const BlockNames& names) {
  using P = ExportPiece;
  const auto norm = [&](const std::string& theirs, const std::string& ours) { add(theirs + ".weight", {P::changed(ours + ".weight", names.norms)}); };
  copy(names.embedding + ".weight", "model.embed_tokens.weight");
  for (int l = 0; l < config_.layers; ++l) {
    const std::string theirs = cat(names.layer, l, "."), ours = cat("model.layers.", l, ".");
    norm(theirs + names.mixer_norm, ours + "input_layernorm");
    norm(theirs + names.mlp_norm, ours + "post_attention_layernorm");
    const std::string gate = ours + "mlp.gate_proj.weight", up = ours + "mlp.up_proj.weight";
    if (names.gate == names.up) {
      add(theirs + names.gate + ".weight", {P::copy(gate), P::copy(up)});
    } else {
      copy(theirs + names.gate + ".weight", gate);
      copy(theirs + names.up + ".weight", up);
    }
    copy(theirs + names.down + ".weight", ours + "mlp.down_proj.weight");
  }
  norm(names.final_norm, "model.norm");
  if (!config_.tie_embeddings) copy(names.head, "lm_head.weight");
  else if (!names.ties) copy(names.head, "model.embed_tokens.weight");
}

Result<OneMixer> one_mixer(const ModelConfig& config, const std::string& target) {
  OneMixer one{"attention", nlohmann::json::object(), {}, {}, {}};
  bool first_kept = true;
  for (int l = 0; l < config.layers; ++l) {
    const auto& parts = config.plan[static_cast<size_t>(l)].parts;
    if (parts.size() > 1) return wont_fit(target, cat("layer ", l), cat(parts.size(), " parts"), "a layer there has one mixer for all heads (distil with whole layers kept)");
    const Part& part = parts.front();
    const bool kept = part.mixer == "attention" || part.mixer == "window";
    one.recurrent.push_back(!kept);
    if (kept) {
      const WindowConfig window = part.mixer == "window" ? part.window : WindowConfig{};
      if (!first_kept && !(window == one.kept_window)) return wont_fit(target, cat("the window of layer ", l), window.size, "attention layers there are all alike");
      one.kept_window = window;
      first_kept = false;
      one.kept.push_back(l);
      continue;
    }
    if (part.window.size > 0) return wont_fit(target, cat("layer ", l), with_window(part), "layers there have one or the other (distil with window 0)");
    if (one.mixer == "attention") {
      one.mixer = part.mixer;
      one.fields = part.config;
    }
    if (part.mixer != one.mixer) return wont_fit(target, cat("the mixer of layer ", l), part.mixer, cat("the layers before have ", one.mixer));
    if (part.config != one.fields) return wont_fit(target, cat("the configuration of layer ", l), part.config.dump(), cat("the layers before have ", one.fields.dump()));
  }
  if (one.mixer == "attention" && one.kept_window.size > 0) one.mixer = "window";
  return one;
}

Status no_qkv_extras(const ModelConfig& c, const std::string& target) {
  if (c.qkv_bias) return wont_fit(target, "qkv_bias", "on", "projections there have no biases");
  if (c.qk_norm) return wont_fit(target, "qk_norm", "on", "there are no norms on q and k");
  return {};
}

Status plain_attention(const ModelConfig& c, const OneMixer& one, const std::string& target, bool bias_fits) {
  if (one.kept.empty()) return {};
  if (c.qk_norm) return wont_fit(target, "qk_norm of the attention layers", "on", "attention there has no norms on q and k");
  if (c.qkv_bias && !bias_fits) return wont_fit(target, "qkv_bias of the attention layers", "on", "attention there has no biases");
  if (c.head_dim * c.heads != c.width) return wont_fit(target, "head_dim", c.head_dim, cat("attention there has hidden_size / heads, ", c.width, " / ", c.heads));
  return {};
}

nlohmann::json rope_parameters(const ModelConfig& c) {
  nlohmann::json rope = config_to_json(c).at("rope_scaling");
  if (rope.is_null()) rope = {{"rope_type", "default"}};
  rope["rope_theta"] = c.rope.base;
  rope["partial_rotary_factor"] = 1.0;
  return rope;
}

nlohmann::json common_config(const ModelConfig& c, const char* architecture, const char* model_type) {
  const nlohmann::json ours = config_to_json(c);
  nlohmann::json out = {{"architectures", {architecture}}, {"model_type", model_type}};
  for (const char* key : {"num_hidden_layers", "hidden_size", "vocab_size", "tie_word_embeddings", "bos_token_id", "eos_token_id"}) out[key] = ours.at(key);
  out["pad_token_id"] = nullptr;
  return out;
}

Result<double> width_factor(const ModelConfig& c, int64_t wanted, const std::string& target, const char* key) {
  const double factor = double(wanted) / double(c.width);
  if (static_cast<int64_t>(double(c.width) * factor) == wanted) return factor;
  return wont_fit(target, "heads x head_dim", wanted, cat("no ", key, " makes int(", c.width, " x ", key, ") that"));
}

}  // namespace retort
