// config.json <-> ModelConfig, for llama, mistral, qwen2, qwen3 and retort's own students.
//
// Layer: io. Pure functions but for read_hf_config.
//
// A student's config.json keeps the keys of its teacher's family and adds
//
//   "model_type": "retort", "teacher_model_type": "llama", "fingerprint": "16 hex digits", "distill_config": {...},
//   "mixers": [ [ {"mixer": "slots", "kv_heads": [0, 2], "window": 64, "window_sinks": 4, "slots": 256},
//                 {"mixer": "attention", "kv_heads": [1]} ], ... one list of parts per layer ],
//   "fingerprint_of": {...}
//
// where whatever a part has beside those four keys is its mixer's own field. A student without its fingerprint, or with another, is
// refused; "fingerprint_of" repeats what it was taken of and serves to say what differs first. Older students have none.
//
// A teacher with a sliding window shorter than its context (Mistral 7B v0.1) is read with the window as its context: up
// to there the window changes nothing, so what is computed is exact; past it, Retort refuses rather than approximates.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "model/config.h"

namespace retort {

// `where` names the file in messages. `generation` is generation_config.json, or null; its eos ids join the config's.
Result<ModelConfig> config_from_json(const nlohmann::json& json, const std::string& where,
                                     const nlohmann::json& generation = nullptr);

// The family's own keys for a plain transformer, a student's otherwise. The plan must be valid.
nlohmann::json config_to_json(const ModelConfig& config, const std::string& dtype = "float32");
nlohmann::json generation_config_to_json(const ModelConfig& config);

// FOLDER/config.json and, when it is there, FOLDER/generation_config.json.
Result<ModelConfig> read_hf_config(const std::string& folder);

}  // namespace retort
