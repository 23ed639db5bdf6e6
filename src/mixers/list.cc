#include "mixers/list.h"

#include "base/hash.h"

namespace retort {

std::string mixer_names() {
  std::string out;
  for_each_mixer([&](auto tag) { out += std::string(out.empty() ? "" : ", ") + decltype(tag)::type::kName; });
  return out;
}

PartShape part_shape(const ModelConfig& c, const Part& part) {
  PartShape s;
  s.width = c.width;
  s.kv_heads = static_cast<int>(part.kv_heads.size());
  s.heads = s.kv_heads * c.group();
  s.head_dim = c.head_dim;
  s.norm_eps = c.norm_eps;
  s.qkv_bias = c.qkv_bias;
  s.qk_norm = c.qk_norm;
  s.rope = c.rope;
  s.window = part.window;
  s.kv_numbers = part.kv_heads;
  s.layer_heads = c.heads;
  return s;
}

std::vector<TensorSpec> part_tensors(const ModelConfig& config, const Part& part) {
  std::vector<TensorSpec> table;
  visit_mixer(part.mixer, [&](auto tag) {
    using Mixer = typename decltype(tag)::type;
    auto fields = parse_config<Mixer>(part.config);
    RETORT_CHECK(fields.ok(), fields.error().message);
    table = part_tensor_table<Mixer>(*fields, part_shape(config, part));
  });
  return table;
}

std::string part_prefix(const ModelConfig& config, int layer, int part) {
  const auto& parts = config.plan[layer].parts;
  const std::string base = cat("model.layers.", layer, ".");
  if (parts.size() == 1) return base + (parts[0].mixer == "attention" ? "self_attn." : "mixer.");
  return cat(base, "mixer.parts.", part, ".");
}

std::vector<TensorSpec> model_tensors(const ModelConfig& c) {
  std::vector<TensorSpec> out;
  const auto add = [&](std::string name, std::vector<int64_t> shape, Precision floor) {
    out.push_back({std::move(name), std::move(shape), floor, TrainGroup::kProjection, {}});
  };
  add("model.embed_tokens.weight", {c.vocab_size, c.width}, Precision::kQuantised);
  for (int l = 0; l < c.layers; ++l) {
    const std::string base = cat("model.layers.", l, ".");
    add(base + "input_layernorm.weight", {c.width}, Precision::kF32);
    for (size_t p = 0; p < c.plan[l].parts.size(); ++p) {
      for (TensorSpec spec : part_tensors(c, c.plan[l].parts[p])) {
        if (!spec.present()) continue;
        spec.name = part_prefix(c, l, static_cast<int>(p)) + spec.name;
        out.push_back(std::move(spec));
      }
    }
    add(base + "post_attention_layernorm.weight", {c.width}, Precision::kF32);
    add(base + "mlp.gate_proj.weight", {c.mlp_width, c.width}, Precision::kQuantised);
    add(base + "mlp.up_proj.weight", {c.mlp_width, c.width}, Precision::kQuantised);
    add(base + "mlp.down_proj.weight", {c.width, c.mlp_width}, Precision::kQuantised);
  }
  add("model.norm.weight", {c.width}, Precision::kF32);
  if (!c.tie_embeddings) add("lm_head.weight", {c.vocab_size, c.width}, Precision::kQuantised);
  return out;
}

Status validate_plan(ModelConfig& config) {
  RETORT_RETURN_IF_ERROR(validate_sizes(config));
  for (int l = 0; l < config.layers; ++l) {
    for (Part& part : config.plan[l].parts) {
      Status status;
      const bool known = visit_mixer(part.mixer, [&](auto tag) {
        using Mixer = typename decltype(tag)::type;
        auto fields = parse_config<Mixer>(part.config);
        if (!fields.ok()) {
          status = invalid("config: mixers[", l, "]: ", fields.error().message);
          return;
        }
        if (Mixer::kNeedsWindow && part.window.size == 0) {
          status = invalid("config: mixers[", l, "]: mixer '", part.mixer, "' needs a window of at least 1 token");
          return;
        }
        if (!Mixer::kNeedsWindow && !Mixer::kRecurrent && part.window.size > 0) {
          status = invalid("config: mixers[", l, "]: mixer '", part.mixer, "' takes no window; use 'window'");
          return;
        }
        part.config = config_json<Mixer>(*fields);
      });
      if (!known) {
        return invalid("config: mixers[", l, "]: unknown mixer '", part.mixer, "'; known: ", mixer_names());
      }
      RETORT_RETURN_IF_ERROR(status);
    }
  }
  return {};
}

std::string fingerprint(const ModelConfig& c) {
  uint64_t hash = kFnvStart;
  const auto add = [&](const std::string& text) { hash = fnv1a_item(text, hash); };
  std::ostringstream sizes;
  sizes.precision(17);
  sizes << c.layers << ' ' << c.width << ' ' << c.heads << ' ' << c.kv_heads << ' ' << c.head_dim << ' ' << c.mlp_width << ' '
        << c.vocab_size << ' ' << c.norm_eps << ' ' << c.tie_embeddings << c.qkv_bias << c.qk_norm << ' ' << c.rope.base << ' '
        << int(c.rope.scaling) << ' ' << c.rope.factor << ' ' << c.rope.low_freq_factor << ' ' << c.rope.high_freq_factor << ' '
        << c.rope.original_context;
  add(sizes.str());
  for (const auto& layer : c.plan) {
    for (const auto& part : layer.parts) {
      add(cat(part.mixer, " ", part.window.size, " ", part.window.sinks, " ", part.config.dump()));
      for (int g : part.kv_heads) add(std::to_string(g));
    }
  }
  for (const auto& spec : model_tensors(c)) {
    add(spec.name);
    for (int64_t s : spec.shape) add(std::to_string(s));
  }
  return hex(hash);
}

}  // namespace retort
