// What a model is, without its weights: sizes, rope, and for every layer the parts that mix tokens.
//
// Layer: model. Plain values.
//
// A layer is a list of parts; each part is a mixer that owns some of the layer's key/value-head groups (kv head g owns the
// query heads g*n .. g*n+n-1 with n = heads / kv_heads). Teacher: one part "attention" that owns all. Pure student: one
// recurrent part. Layer-wise hybrid: some layers of either kind. Head-wise hybrid: two parts in one layer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace retort {

// Rotary position embedding, half-split pairing (x[i], x[i + dims/2]), as in Llama.
struct RopeConfig {
  enum class Scaling { kNone, kLinear, kLlama3 };
  double base = 10000.0;
  Scaling scaling = Scaling::kNone;
  double factor = 1.0;                 // kLinear, kLlama3
  double low_freq_factor = 1.0;        // kLlama3
  double high_freq_factor = 4.0;       // kLlama3
  int original_context = 8192;         // kLlama3
  bool operator==(const RopeConfig&) const = default;

  // Angular frequency of each pair, scaling applied. [head_dim / 2]
  std::vector<double> frequencies(int head_dim) const;
};

// An exact softmax over the last `size` tokens (the current one included) and the first `sinks` tokens. size 0: no window.
struct WindowConfig {
  int size = 0;
  int sinks = 0;
  bool operator==(const WindowConfig&) const = default;
};

// One mixer in a layer and the kv heads it owns.
struct Part {
  std::string mixer = "attention";     // a name in mixers/list.h
  std::vector<int> kv_heads;           // sorted, distinct
  WindowConfig window;                 // joins the recurrence with an exact window (for "window": is the window)
  nlohmann::json config = nlohmann::json::object();  // the mixer's own fields, all present after validation
  bool operator==(const Part&) const = default;
};

struct LayerPlan {
  std::vector<Part> parts;
  bool operator==(const LayerPlan&) const = default;
};

struct ModelConfig {
  std::string family = "llama";        // llama | mistral | qwen2 | qwen3: the teacher's model_type
  std::string name;                    // for people
  int layers = 0;
  int width = 0;                       // D
  int heads = 0;                       // H
  int kv_heads = 0;                    // G
  int head_dim = 0;                    // d_h
  int mlp_width = 0;
  int vocab_size = 0;                  // rows of the embedding; may exceed the tokenizer's size
  int context_length = 0;
  float norm_eps = 1e-5f;
  bool tie_embeddings = false;
  bool qkv_bias = false;               // Qwen2
  bool qk_norm = false;                // Qwen3
  RopeConfig rope;
  int bos_id = -1;                     // -1: none
  std::vector<int> eos_ids;
  std::vector<LayerPlan> plan;         // [layers]
  nlohmann::json provenance;           // "distill_config" of a student, null for a teacher

  int group() const { return heads / kv_heads; }
};

// Every layer one attention part that owns all kv heads.
std::vector<LayerPlan> attention_plan(const ModelConfig& config);

// True when the model is exactly what `transformers` calls by config.family.
bool is_plain_transformer(const ModelConfig& config);

// Sizes positive and consistent, every kv head of every layer owned once, mixers known and their fields valid is checked in
// mixers/list.h; this checks what needs no mixer.
Status validate_sizes(const ModelConfig& config);

// "SSSSSSS*SS": one letter per layer for people: * attention, w window, + mixed, otherwise the first letter of the mixer's name that is free.
std::string layout_string(const ModelConfig& config);

}  // namespace retort
