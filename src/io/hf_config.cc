#include "io/hf_config.h"

#include <algorithm>
#include <charconv>

#include "base/mapped_file.h"
#include "base/path.h"
#include "io/fingerprint_record.h"
#include "io/json_fields.h"
#include "mixers/list.h"

namespace retort {
namespace {

using nlohmann::json;

constexpr const char* kFamilies = "llama, mistral, qwen2, qwen3, retort";
constexpr int64_t kMostPlanEntries = 1 << 20;  // layers x kv heads

bool known_family(const std::string& name) {
  return name == "llama" || name == "mistral" || name == "qwen2" || name == "qwen3";
}

Status read_sizes(const JsonFields& f, ModelConfig& c) {
  RETORT_TRY(c.layers, f.integer("num_hidden_layers"));
  RETORT_TRY(c.width, f.integer("hidden_size"));
  RETORT_TRY(c.heads, f.integer("num_attention_heads"));
  RETORT_TRY(c.kv_heads,
             c.family == "llama" ? f.integer_or("num_key_value_heads", c.heads) : f.integer("num_key_value_heads"));
  RETORT_TRY(c.mlp_width, f.integer("intermediate_size"));
  RETORT_TRY(c.vocab_size, f.integer("vocab_size"));
  RETORT_TRY(c.context_length, f.integer("max_position_embeddings"));
  if (c.heads < 1) return f.bad("key 'num_attention_heads' is ", c.heads, "; expected at least 1");
  // transformers' defaults where the key may be left out.
  const int default_head_dim = c.family == "qwen3" ? 128 : c.width / c.heads;
  if (!f.has("head_dim") && c.family != "qwen3" && c.width % c.heads) {
    return f.bad("hidden_size (", c.width, ") is not a multiple of num_attention_heads (", c.heads,
                 ") and head_dim is missing");
  }
  RETORT_TRY(c.head_dim, f.integer_or("head_dim", default_head_dim));
  RETORT_TRY(const double eps, f.number("rms_norm_eps"));
  c.norm_eps = static_cast<float>(eps);
  RETORT_TRY(c.tie_embeddings, f.boolean_or("tie_word_embeddings", false));
  return {};
}

// Features of these families that Retort's layers do not have.
Status refuse_unsupported(const JsonFields& f) {
  RETORT_TRY(const std::string activation, f.text_or("hidden_act", "silu"));
  if (activation != "silu") return f.bad("hidden_act is '", activation, "'; Retort has silu");
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    RETORT_TRY(const bool on, f.boolean_or(key, false));
    if (on) return f.bad(key, " is true; Retort reads biases on q, k and v only (qwen2)");
  }
  RETORT_TRY(const double partial, f.number_or("partial_rotary_factor", 1.0));
  if (partial != 1.0) return f.bad("partial_rotary_factor is ", partial, "; Retort rotates whole heads");
  if (f.has("num_local_experts") || f.has("num_experts")) return f.bad("mixtures of experts are not supported");
  return {};
}

Status read_rope_scaling(const JsonFields& f, ModelConfig& c) {
  // transformers has spelt this key two ways.
  RETORT_TRY(const std::string old_type, f.text_or("type", "default"));
  RETORT_TRY(const std::string type, f.text_or("rope_type", old_type));
  if (type == "default") return {};
  if (type != "linear" && type != "llama3")
    return f.bad("rope scaling '", type, "' is not supported; supported: default, linear, llama3");
  RETORT_TRY(c.rope.factor, f.number("factor"));
  if (!(c.rope.factor >= 1.0 && c.rope.factor <= 1e6))
    return f.bad("key 'factor' is ", c.rope.factor, "; expected 1 or more");
  c.rope.scaling = RopeConfig::Scaling::kLinear;
  if (type == "linear") return {};
  c.rope.scaling = RopeConfig::Scaling::kLlama3;
  RETORT_TRY(c.rope.low_freq_factor, f.number("low_freq_factor"));
  RETORT_TRY(c.rope.high_freq_factor, f.number("high_freq_factor"));
  RETORT_TRY(c.rope.original_context, f.integer("original_max_position_embeddings"));
  if (!(c.rope.low_freq_factor > 0 && c.rope.high_freq_factor > c.rope.low_freq_factor &&
        c.rope.original_context > 0)) {
    return f.bad("expected 0 < low_freq_factor < high_freq_factor and original_max_position_embeddings above 0");
  }
  return {};
}

// Up to transformers 4: rope_theta and rope_scaling; from 5 on: both inside rope_parameters.
Status read_rope(const JsonFields& f, ModelConfig& c) {
  RETORT_TRY(c.rope.base, f.number_or("rope_theta", 10000.0));
  if (f.has("rope_parameters")) {
    RETORT_TRY(const JsonFields parameters, f.object("rope_parameters"));
    if (parameters.has("full_attention") || parameters.has("sliding_attention")) {
      return parameters.bad("rope per kind of layer is not supported");
    }
    RETORT_TRY(c.rope.base, parameters.number_or("rope_theta", c.rope.base));
    RETORT_TRY(const double partial, parameters.number_or("partial_rotary_factor", 1.0));
    if (partial != 1.0) return parameters.bad("partial_rotary_factor is ", partial, "; Retort rotates whole heads");
    return read_rope_scaling(parameters, c);
  }
  if (!f.has("rope_scaling")) return {};
  RETORT_TRY(const JsonFields scaling, f.object("rope_scaling"));
  return read_rope_scaling(scaling, c);
}

Status read_sliding_window(const JsonFields& f, ModelConfig& c) {
  if (f.has("layer_types")) {
    if (!f.at("layer_types").is_array()) return f.bad("key 'layer_types' is not a list");
    for (const json& type : f.at("layer_types")) {
      if (type != "full_attention" && type != "sliding_attention") {
        return f.bad("layer_types has ", type.dump(-1, ' ', true, json::error_handler_t::replace),
                     "; supported: full_attention, sliding_attention");
      }
    }
  }
  RETORT_TRY(const bool used, f.boolean_or("use_sliding_window", c.family == "mistral"));
  if (!used || !f.has("sliding_window")) return {};
  RETORT_TRY(const int window, f.integer("sliding_window"));
  if (window < 1) return f.bad("sliding_window is ", window, "; expected at least 1, or null");
  c.context_length = std::min(c.context_length, window);
  return {};
}

bool is_small_count(const json& value) {
  // An unsigned number above 2^63 comes out negative.
  return value.is_number_integer() && value.get<int64_t>() >= 0 && value.get<int64_t>() <= 1 << 30;
}

Status add_token_ids(const JsonFields& f, const char* key, std::vector<int>& ids) {
  if (!f.has(key)) return {};
  const json& value = f.at(key);
  const json list = value.is_array() ? value : json::array({value});
  for (const json& id : list) {
    if (!is_small_count(id)) return f.bad("key '", key, "' is no token id or list of token ids");
    const int n = id.get<int>();
    if (std::find(ids.begin(), ids.end(), n) == ids.end()) ids.push_back(n);
  }
  return {};
}

Status read_token_ids(const JsonFields& f, const json& generation, ModelConfig& c) {
  RETORT_RETURN_IF_ERROR(add_token_ids(f, "eos_token_id", c.eos_ids));
  std::vector<int> bos;
  RETORT_RETURN_IF_ERROR(add_token_ids(f, "bos_token_id", bos));
  if (!bos.empty()) c.bos_id = bos.front();
  if (generation.is_object()) {
    // Chat models often name the end of a turn only here.
    RETORT_RETURN_IF_ERROR(
        add_token_ids(JsonFields(generation, cat(f.where(), " (generation_config.json)")), "eos_token_id", c.eos_ids));
  }
  for (const int id : c.eos_ids) {
    if (id >= c.vocab_size) return f.bad("eos_token_id ", id, " is outside the vocabulary of ", c.vocab_size);
  }
  if (c.bos_id >= c.vocab_size) return f.bad("bos_token_id ", c.bos_id, " is outside the vocabulary of ", c.vocab_size);
  return {};
}

Result<Part> read_part(const json& entry, const std::string& where) {
  if (!entry.is_object())
    return invalid(where, ": a part is ", entry.type_name(), "; expected an object with mixer and kv_heads");
  const JsonFields f(entry, where);
  Part part;
  RETORT_TRY(part.mixer, f.text("mixer"));
  RETORT_TRY(part.window.size, f.integer_or("window", 0));
  RETORT_TRY(part.window.sinks, f.integer_or("window_sinks", 0));
  if (!f.has("kv_heads") || !f.at("kv_heads").is_array()) return f.bad("key 'kv_heads' must be a list of kv heads");
  for (const json& head : f.at("kv_heads")) {
    if (!is_small_count(head)) return f.bad("kv_heads holds something that is no kv head");
    part.kv_heads.push_back(head.get<int>());
  }
  for (const auto& [key, value] : entry.items()) {
    if (key != "mixer" && key != "window" && key != "window_sinks" && key != "kv_heads") part.config[key] = value;
  }
  return part;
}

Status read_mixers(const JsonFields& f, ModelConfig& c) {
  if (!f.has("mixers") || !f.at("mixers").is_array()) return f.bad("key 'mixers' must list the parts of every layer");
  for (const json& layer : f.at("mixers")) {
    const std::string where = cat(f.where(), ": mixers[", c.plan.size(), "]");
    if (!layer.is_array()) return invalid(where, " is ", layer.type_name(), "; expected a list of parts");
    LayerPlan plan;
    for (const json& entry : layer) {
      RETORT_TRY(Part part, read_part(entry, where));
      plan.parts.push_back(std::move(part));
    }
    c.plan.push_back(std::move(plan));
  }
  return {};
}

// Errors of the layers below start with "config: "; the file's name is better.
Error in_file(const std::string& where, Error error) {
  const std::string prefix = "config: ";
  if (error.message.compare(0, prefix.size(), prefix) == 0)
    error.message = where + ": " + error.message.substr(prefix.size());
  return error;
}

// The shortest decimal that reads back as the same float: 1e-05 rather than 9.999999747378752e-06.
double as_short_double(float value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  double out = value;
  std::from_chars(text, end, out);
  return out;
}

json rope_to_json(const RopeConfig& rope) {
  using Scaling = RopeConfig::Scaling;
  if (rope.scaling == Scaling::kNone) return nullptr;
  if (rope.scaling == Scaling::kLinear) return {{"rope_type", "linear"}, {"factor", rope.factor}};
  return {{"rope_type", "llama3"},
          {"factor", rope.factor},
          {"low_freq_factor", rope.low_freq_factor},
          {"high_freq_factor", rope.high_freq_factor},
          {"original_max_position_embeddings", rope.original_context}};
}

json plan_to_json(const std::vector<LayerPlan>& plan) {
  json layers = json::array();
  for (const LayerPlan& layer : plan) {
    json parts = json::array();
    for (const Part& part : layer.parts) {
      json entry = part.config;
      entry["mixer"] = part.mixer;
      entry["kv_heads"] = part.kv_heads;
      if (part.window.size > 0) entry["window"] = part.window.size;
      if (part.window.sinks > 0) entry["window_sinks"] = part.window.sinks;
      parts.push_back(std::move(entry));
    }
    layers.push_back(std::move(parts));
  }
  return layers;
}

json sizes_to_json(const ModelConfig& c) {
  return {{"num_hidden_layers", c.layers},
          {"hidden_size", c.width},
          {"num_attention_heads", c.heads},
          {"num_key_value_heads", c.kv_heads},
          {"head_dim", c.head_dim},
          {"intermediate_size", c.mlp_width},
          {"vocab_size", c.vocab_size},
          {"rms_norm_eps", as_short_double(c.norm_eps)},
          {"tie_word_embeddings", c.tie_embeddings},
          {"rope_theta", c.rope.base},
          {"rope_scaling", rope_to_json(c.rope)}};
}

// What a student has beside the keys of its teacher's family and its fingerprint.
json student_to_json(const ModelConfig& c) { return {{"teacher_model_type", c.family}, {"mixers", plan_to_json(c.plan)}}; }

json fingerprint_record(const ModelConfig& c) {
  json out = sizes_to_json(c);
  out.update(student_to_json(c));
  return out;
}

// The configuration is the one that its fingerprint was taken of.
Status check_fingerprint(const JsonFields& f, const ModelConfig& c) {
  const std::string own = fingerprint(c);
  if (!f.has("fingerprint")) {
    return f.bad("key 'fingerprint' is missing, which guards a student against edits that change its equations; this configuration has \"",
                 own, "\"");
  }
  RETORT_TRY(const std::string stored, f.text("fingerprint"));
  if (stored == own) return {};
  const std::string message = cat("fingerprint is ", stored, " but this configuration has ", own);
  if (!f.has("fingerprint_of") || !f.at("fingerprint_of").is_object()) {
    return f.bad(message, "; it was edited, or written by a Retort with other equations");
  }
  const std::string difference = first_difference(f.at("fingerprint_of"), fingerprint_record(c));
  if (difference.empty()) return f.bad(message, "; no key was edited: it was written by a Retort with other equations");
  return f.bad(message, "; first difference: ", difference);
}

const char* class_name(const std::string& family) {
  if (family == "mistral") return "MistralForCausalLM";
  if (family == "qwen2") return "Qwen2ForCausalLM";
  if (family == "qwen3") return "Qwen3ForCausalLM";
  return "LlamaForCausalLM";
}

json eos_to_json(const std::vector<int>& ids) {
  if (ids.empty()) return nullptr;
  return ids.size() == 1 ? json(ids.front()) : json(ids);
}

}  // namespace

Result<ModelConfig> config_from_json(const json& root, const std::string& where, const json& generation) {
  if (!root.is_object()) return invalid(where, ": expected a JSON object, found ", root.type_name());
  const JsonFields f(root, where);
  ModelConfig c;
  RETORT_TRY(const std::string model_type, f.text("model_type"));
  const bool student = model_type == "retort";
  RETORT_TRY(c.family, student ? f.text("teacher_model_type") : Result<std::string>(model_type));
  if (!known_family(c.family)) {
    return f.bad(student ? "teacher_model_type" : "model_type", " '", c.family,
                 "' is not supported; supported: ", kFamilies);
  }
  RETORT_TRY(c.name, f.text_or("_name_or_path", ""));
  c.qkv_bias = c.family == "qwen2";
  c.qk_norm = c.family == "qwen3";
  RETORT_RETURN_IF_ERROR(read_sizes(f, c));
  RETORT_RETURN_IF_ERROR(refuse_unsupported(f));
  RETORT_RETURN_IF_ERROR(read_rope(f, c));
  RETORT_RETURN_IF_ERROR(read_sliding_window(f, c));
  RETORT_RETURN_IF_ERROR(read_token_ids(f, generation, c));
  if (c.layers < 1 || c.kv_heads < 1 || int64_t{c.layers} * c.kv_heads > kMostPlanEntries) {
    return f.bad(c.layers, " layers of ", c.kv_heads, " kv heads; expected 1 to ", kMostPlanEntries,
                 " kv heads in all");
  }
  if (f.has("distill_config")) c.provenance = f.at("distill_config");
  if (student) {
    RETORT_RETURN_IF_ERROR(read_mixers(f, c));
  } else {
    c.plan = attention_plan(c);
  }
  if (auto status = validate_plan(c); !status.ok()) return in_file(where, status.error());
  if (student) RETORT_RETURN_IF_ERROR(check_fingerprint(f, c));
  return c;
}

json config_to_json(const ModelConfig& c, const std::string& dtype) {
  const bool student = !is_plain_transformer(c);
  json out = sizes_to_json(c);
  out.update({{"architectures", {student ? "RetortForCausalLM" : class_name(c.family)}},
              {"model_type", student ? "retort" : c.family},
              {"max_position_embeddings", c.context_length},
              {"hidden_act", "silu"},
              {"bos_token_id", c.bos_id >= 0 ? json(c.bos_id) : json(nullptr)},
              {"eos_token_id", eos_to_json(c.eos_ids)},
              {"torch_dtype", dtype}});
  if (c.family == "mistral") out["sliding_window"] = nullptr;
  if (!c.name.empty()) out["_name_or_path"] = c.name;
  if (student) {
    out.update(student_to_json(c));
    out["fingerprint"] = fingerprint(c);
    out["fingerprint_of"] = fingerprint_record(c);
  }
  if (!c.provenance.is_null()) out["distill_config"] = c.provenance;
  return out;
}

json generation_config_to_json(const ModelConfig& c) {
  return {{"_from_model_config", true},
          {"bos_token_id", c.bos_id >= 0 ? json(c.bos_id) : json(nullptr)},
          {"eos_token_id", eos_to_json(c.eos_ids)}};
}

Result<ModelConfig> read_hf_config(const std::string& folder) {
  const std::string path = folder + "/config.json", generation_path = folder + "/generation_config.json";
  RETORT_TRY(const std::string text, read_text_file(path));
  RETORT_TRY(const json root, parse_json_object(path, text));
  json generation;
  if (path_exists(generation_path)) {
    RETORT_TRY(const std::string generation_text, read_text_file(generation_path));
    RETORT_TRY(generation, parse_json_object(generation_path, generation_text));
  }
  return config_from_json(root, path, generation);
}

}  // namespace retort
