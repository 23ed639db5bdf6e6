#include "io/fingerprint_record.h"

#include <algorithm>

#include "base/error.h"

namespace retort {
namespace {

using nlohmann::json;

// In the order in which they are told.
constexpr const char* kSizes[] = {"teacher_model_type", "num_hidden_layers", "hidden_size", "num_attention_heads",
                                  "num_key_value_heads", "head_dim", "intermediate_size", "vocab_size",
                                  "rms_norm_eps", "tie_word_embeddings", "rope_theta", "rope_scaling"};

json value_or_null(const json& object, const std::string& key) { return object.contains(key) ? object.at(key) : json(nullptr); }

std::string text(const json& value) { return value.is_null() ? "absent" : value.dump(); }

// Of one key of two objects; empty when it is the same.
std::string of_key(const std::string& where, const std::string& key, const json& taken, const json& now) {
  const json before = value_or_null(taken, key), after = value_or_null(now, key);
  if (before == after) return "";
  return cat(where, " '", key, "' is ", text(after), ", the fingerprint was taken with ", before.is_null() ? "none" : text(before));
}

std::string of_part(const std::string& where, const json& taken, const json& now) {
  if (!taken.is_object()) return "";
  if (const auto mixer = of_key(where + ":", "mixer", taken, now); !mixer.empty()) return mixer;
  json keys = now;
  keys.update(taken);
  for (const auto& [key, value] : keys.items()) {
    const std::string name = now.at("mixer").get<std::string>();
    if (const auto field = of_key(cat(where, " (", name, "): field"), key, taken, now); !field.empty()) return field;
  }
  return "";
}

std::string of_layer(size_t layer, const json& taken, const json& now) {
  if (!taken.is_array()) return "";
  if (taken.size() != now.size()) {
    const char* parts = now.size() == 1 ? " part" : " parts";
    return cat("layer ", layer, " has ", now.size(), parts, ", the fingerprint was taken with ", taken.size());
  }
  for (size_t p = 0; p < now.size(); ++p) {
    if (const auto part = of_part(cat("layer ", layer, ", part ", p), taken[p], now[p]); !part.empty()) return part;
  }
  return "";
}

}  // namespace

std::string first_difference(const json& taken, const json& now) {
  for (const char* key : kSizes) {
    if (const auto size = of_key("key", key, taken, now); !size.empty()) return size;
  }
  const json before = value_or_null(taken, "mixers");
  const json& after = now.at("mixers");
  if (!before.is_array()) return "";
  for (size_t l = 0; l < std::min(before.size(), after.size()); ++l) {
    if (const auto layer = of_layer(l, before[l], after[l]); !layer.empty()) return layer;
  }
  return "";
}

}  // namespace retort
