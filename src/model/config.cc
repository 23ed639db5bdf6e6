#include "model/config.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <numbers>
#include <set>

namespace retort {

std::vector<double> RopeConfig::frequencies(int head_dim) const {
  std::vector<double> freqs(head_dim / 2);
  for (int i = 0; i < head_dim / 2; ++i) {
    double f = std::pow(base, -2.0 * i / head_dim);
    if (scaling == Scaling::kLinear) f /= factor;
    if (scaling == Scaling::kLlama3) {
      const double wavelength = 2.0 * std::numbers::pi / f;
      const double low = original_context / low_freq_factor, high = original_context / high_freq_factor;
      if (wavelength > low) {
        f /= factor;
      } else if (wavelength > high) {
        const double smooth = (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
        f = (1.0 - smooth) * f / factor + smooth * f;
      }
    }
    freqs[i] = f;
  }
  return freqs;
}

std::vector<LayerPlan> attention_plan(const ModelConfig& config) {
  Part part;
  for (int g = 0; g < config.kv_heads; ++g) part.kv_heads.push_back(g);
  return std::vector<LayerPlan>(config.layers, LayerPlan{{part}});
}

bool is_plain_transformer(const ModelConfig& config) { return config.plan == attention_plan(config); }

Status validate_sizes(const ModelConfig& c) {
  const auto positive = [](const char* field, int64_t value, int64_t most) -> Status {
    if (value < 1 || value > most) return invalid("config: ", field, " is ", value, "; expected 1 to ", most);
    return {};
  };
  RETORT_RETURN_IF_ERROR(positive("num_hidden_layers", c.layers, 4096));
  RETORT_RETURN_IF_ERROR(positive("hidden_size", c.width, 1 << 18));
  RETORT_RETURN_IF_ERROR(positive("num_attention_heads", c.heads, 1 << 14));
  RETORT_RETURN_IF_ERROR(positive("num_key_value_heads", c.kv_heads, c.heads));
  RETORT_RETURN_IF_ERROR(positive("head_dim", c.head_dim, 4096));
  RETORT_RETURN_IF_ERROR(positive("intermediate_size", c.mlp_width, 1 << 20));
  RETORT_RETURN_IF_ERROR(positive("vocab_size", c.vocab_size, 1 << 24));
  RETORT_RETURN_IF_ERROR(positive("max_position_embeddings", c.context_length, 1 << 30));
  if (c.heads % c.kv_heads) {
    return invalid("config: num_attention_heads (", c.heads, ") is not a multiple of num_key_value_heads (", c.kv_heads, ")");
  }
  if (c.head_dim % 2) return invalid("config: head_dim is ", c.head_dim, "; rope needs an even width");
  if (!(c.norm_eps > 0) || c.norm_eps > 1) return invalid("config: rms_norm_eps is ", c.norm_eps, "; expected 0 < eps <= 1");
  if (!(c.rope.base > 1) || !std::isfinite(c.rope.base)) return invalid("config: rope_theta is ", c.rope.base, "; expected above 1");
  if (static_cast<int>(c.plan.size()) != c.layers) {
    return invalid("config: ", c.plan.size(), " entries in mixers for ", c.layers, " layers");
  }
  for (int l = 0; l < c.layers; ++l) {
    std::set<int> owned;
    for (const Part& part : c.plan[l].parts) {
      if (part.kv_heads.empty()) return invalid("config: mixers[", l, "]: part '", part.mixer, "' owns no kv heads");
      if (part.window.size < 0 || part.window.sinks < 0 || part.window.size > 1 << 20 || part.window.sinks > 4096) {
        return invalid("config: mixers[", l, "]: window ", part.window.size, " with ", part.window.sinks,
                       " sinks; expected 0 to 1048576 with 0 to 4096");
      }
      if (part.window.size + part.window.sinks > c.context_length) {
        return invalid("config: mixers[", l, "]: a window of ", part.window.size, " with ", part.window.sinks,
                       " sinks is longer than the model's context of ", c.context_length, ", which mixer 'attention' covers; it must be within it");
      }
      if (part.window.size == 0 && part.window.sinks > 0) {
        return invalid("config: mixers[", l, "]: ", part.window.sinks, " sinks without a window; sinks are the first tokens, which a window keeps");
      }
      int before = -1;
      for (int g : part.kv_heads) {
        if (g <= before || g >= c.kv_heads) {
          return invalid("config: mixers[", l, "]: kv_heads of part '", part.mixer, "' must rise and lie in 0 to ", c.kv_heads - 1);
        }
        before = g;
        if (!owned.insert(g).second) return invalid("config: mixers[", l, "]: kv head ", g, " is owned twice");
      }
    }
    for (int g = 0; g < c.kv_heads; ++g) {
      if (owned.count(g)) continue;
      return invalid("config: mixers[", l, "]: kv head ", g, " is owned by no part; every one of 0 to ", c.kv_heads - 1, " must be");
    }
  }
  return {};
}

std::string layout_string(const ModelConfig& config) {
  std::map<std::string, char> letters = {{"attention", '*'}, {"window", 'w'}};
  const auto letter_of = [&](const std::string& mixer) {
    if (const auto found = letters.find(mixer); found != letters.end()) return found->second;
    const auto taken = [&](char c) { return std::any_of(letters.begin(), letters.end(), [&](const auto& one) { return one.second == c; }); };
    char letter = '?';
    for (const char c : mixer + "123456789") {
      letter = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
      if (std::isalnum(static_cast<unsigned char>(letter)) && !taken(letter)) break;
    }
    return letters[mixer] = letter;
  };
  std::string out;
  for (const LayerPlan& layer : config.plan) out += layer.parts.size() > 1 ? '+' : letter_of(layer.parts.front().mixer);
  return out;
}

}  // namespace retort
