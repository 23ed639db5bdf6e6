#include "io/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "mixers/list.h"

namespace retort {
namespace {

struct KeyReader {
  const GgufFile& file;
  std::string prefix;  // "llama."

  Result<int> narrow(const std::string& key, int64_t value) const {
    if (value < 0 || value > std::numeric_limits<int>::max())
      return invalid(file.path(), ": metadata key '", key, "' is ", value, "; expected 0 to 2^31");
    return static_cast<int>(value);
  }
  Result<int> integer(const std::string& name) const {
    RETORT_TRY(const int64_t value, file.integer(prefix + name));
    return narrow(prefix + name, value);
  }
  Result<int> integer_or(const std::string& name, int fallback) const {
    return file.has(prefix + name) ? integer(name) : Result<int>(fallback);
  }

  // Head counts and MLP widths may be stored per layer.
  Result<int> same_in_every_layer(const std::string& name) const {
    auto list = file.integers(prefix + name);
    if (!list.ok()) return integer(name);
    if (list->empty() || std::any_of(list->begin(), list->end(), [&](int64_t v) { return v != list->front(); })) {
      return invalid(file.path(), ": metadata key '", prefix, name, "' differs between layers, which is not supported");
    }
    return narrow(prefix + name, list->front());
  }
};

Status read_sizes(const KeyReader& r, ModelConfig& c) {
  RETORT_TRY(c.layers, r.integer("block_count"));
  RETORT_TRY(c.width, r.integer("embedding_length"));
  RETORT_TRY(c.heads, r.same_in_every_layer("attention.head_count"));
  const bool grouped = r.file.has(r.prefix + "attention.head_count_kv");
  RETORT_TRY(c.kv_heads, grouped ? r.same_in_every_layer("attention.head_count_kv") : Result<int>(c.heads));
  RETORT_TRY(c.mlp_width, r.same_in_every_layer("feed_forward_length"));
  RETORT_TRY(c.context_length, r.integer("context_length"));
  RETORT_TRY(const double eps, r.file.number(r.prefix + "attention.layer_norm_rms_epsilon"));
  c.norm_eps = static_cast<float>(eps);
  if (c.heads < 1 || (c.width % c.heads && !r.file.has(r.prefix + "attention.key_length"))) {
    return invalid(r.file.path(), ": ", c.heads, " heads do not divide a width of ", c.width);
  }
  RETORT_TRY(c.head_dim, r.integer_or("attention.key_length", c.width / c.heads));
  RETORT_TRY(const int value_dim, r.integer_or("attention.value_length", c.head_dim));
  if (value_dim != c.head_dim)
    return invalid(r.file.path(), ": value heads of width ", value_dim, " beside key heads of ", c.head_dim,
                   " are not supported");
  RETORT_TRY(const int experts, r.integer_or("expert_count", 0));
  if (experts > 0) return invalid(r.file.path(), ": mixtures of experts are not supported");
  RETORT_TRY(const int window, r.integer_or("attention.sliding_window", 0));
  if (window > 0) c.context_length = std::min(c.context_length, window);  // exact up to there: see hf_config.h
  return {};
}

// rope_freqs.weight divides each pair's frequency; llama.cpp's converter writes it for Llama 3.1 and later. Only that
// rule can be expressed here, so its parameters are recovered and every value is compared.
Status read_rope_factors(const GgufFile& file, const GgufTensor& tensor, ModelConfig& c) {
  const int pairs = c.head_dim / 2;
  if (tensor.type != TensorType::kF32 || tensor.shape != std::vector<int64_t>{pairs}) {
    return invalid(file.path(), ": tensor 'rope_freqs.weight' must be F32 [", pairs, "]");
  }
  std::vector<float> factors(static_cast<size_t>(pairs));
  dequantise_row(tensor.type, tensor.bytes.data(), factors.data(), pairs);
  const RopeConfig plain = c.rope;
  c.rope.scaling = RopeConfig::Scaling::kLlama3;
  c.rope.factor = *std::max_element(factors.begin(), factors.end());
  c.rope.low_freq_factor = 1.0;
  c.rope.high_freq_factor = 4.0;
  c.rope.original_context = 8192;
  const auto unscaled = plain.frequencies(c.head_dim), scaled = c.rope.frequencies(c.head_dim);
  for (int i = 0; i < pairs; ++i) {
    const double expected = unscaled[static_cast<size_t>(i)] / scaled[static_cast<size_t>(i)];
    if (!(std::abs(factors[static_cast<size_t>(i)] - expected) <= 1e-4 * expected)) {
      return invalid(file.path(), ": rope_freqs.weight[", i, "] is ", factors[static_cast<size_t>(i)],
                     ", not Llama 3's ", expected, "; other rope scalings are not supported");
    }
  }
  return {};
}

Status read_rope(const KeyReader& r, ModelConfig& c) {
  RETORT_TRY(c.rope.base, r.file.number_or(r.prefix + "rope.freq_base", 10000.0));
  RETORT_TRY(const int rotated, r.integer_or("rope.dimension_count", c.head_dim));
  if (rotated != c.head_dim)
    return invalid(r.file.path(), ": ", rotated, " of ", c.head_dim,
                   " dimensions are rotated; Retort rotates whole heads");
  RETORT_TRY(const std::string scaling, r.file.text_or(r.prefix + "rope.scaling.type", "none"));
  if (scaling == "linear") {
    c.rope.scaling = RopeConfig::Scaling::kLinear;
    RETORT_TRY(c.rope.factor, r.file.number(r.prefix + "rope.scaling.factor"));
    if (!(c.rope.factor >= 1.0 && c.rope.factor <= 1e6))
      return invalid(r.file.path(), ": rope scaling factor is ", c.rope.factor, "; expected 1 or more");
  } else if (scaling != "none") {
    return invalid(r.file.path(), ": rope scaling '", scaling, "' is not supported; supported: none, linear, llama3");
  }
  const GgufTensor* factors = r.file.find_tensor("rope_freqs.weight");
  if (!factors) return {};
  if (!(c.rope.base > 1) || c.head_dim < 2 || c.head_dim > 4096)
    return invalid(r.file.path(), ": rope base ", c.rope.base, " or head width ", c.head_dim, " is out of range");
  return read_rope_factors(r.file, *factors, c);
}

Status read_tokens(const GgufFile& file, ModelConfig& c) {
  const auto valid = [](int64_t id) { return id >= 0 && id <= 1 << 30; };
  RETORT_TRY(const int64_t bos, file.integer_or("tokenizer.ggml.bos_token_id", -1));
  if (valid(bos)) c.bos_id = static_cast<int>(bos);
  for (const char* key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    RETORT_TRY(const int64_t id, file.integer_or(key, -1));
    if (valid(id) && std::find(c.eos_ids.begin(), c.eos_ids.end(), id) == c.eos_ids.end())
      c.eos_ids.push_back(static_cast<int>(id));
  }
  return {};
}

}  // namespace

bool gguf_interleaves_rope(const std::string& family) { return family == "llama"; }

Result<ModelConfig> config_from_gguf(const GgufFile& file) {
  RETORT_TRY(const std::string architecture, file.text("general.architecture"));
  if (architecture != "llama" && architecture != "qwen2" && architecture != "qwen3") {
    return invalid(file.path(), ": architecture '", architecture, "' is not supported; supported: llama, qwen2, qwen3");
  }
  ModelConfig c;
  c.family = architecture;
  const KeyReader reader{file, architecture + "."};
  RETORT_TRY(c.name, file.text_or("general.name", ""));
  RETORT_RETURN_IF_ERROR(read_sizes(reader, c));
  RETORT_RETURN_IF_ERROR(read_rope(reader, c));
  RETORT_RETURN_IF_ERROR(read_tokens(file, c));
  const GgufTensor* embedding = file.find_tensor("token_embd.weight");
  if (!embedding || embedding->shape.size() != 2)
    return invalid(file.path(), ": tensor 'token_embd.weight' [vocabulary, ", c.width, "] is missing");
  RETORT_TRY(c.vocab_size, reader.narrow("rows of token_embd.weight", embedding->shape[0]));
  c.tie_embeddings = !file.find_tensor("output.weight");
  c.qkv_bias = architecture == "qwen2";
  c.qk_norm = architecture == "qwen3";
  for (const char* name : {"blk.0.attn_output.bias", "blk.0.ffn_down.bias", "blk.0.ffn_up.bias", "blk.0.attn_q.bias"}) {
    const bool expected = c.qkv_bias && std::string(name) == "blk.0.attn_q.bias";
    if (!expected && file.find_tensor(name)) {
      return invalid(file.path(), ": tensor '", name, "': Retort reads biases on q, k and v of qwen2 only");
    }
  }
  if (c.layers < 1 || c.kv_heads < 1 || int64_t{c.layers} * c.kv_heads > 1 << 20) {
    return invalid(file.path(), ": ", c.layers, " layers of ", c.kv_heads,
                   " kv heads; expected 1 to 1048576 kv heads in all");
  }
  c.plan = attention_plan(c);
  if (auto status = validate_plan(c); !status.ok()) return invalid(file.path(), ": ", status.error().message);
  return c;
}

}  // namespace retort
