// Small random models in memory, one per mixer, for tests of whatever runs them. Header-only; test programs only.
#pragma once

#include <cmath>
#include <cstring>
#include <map>
#include <ostream>

#include "io/model_files.h"
#include "mixers/list.h"
#include "runtime/random.h"

namespace retort::testing_support {

// Every tensor of a configuration, filled with small random numbers; norms are near 1.
class RandomStore : public WeightStore {
 public:
  RandomStore(const ModelConfig& config, uint64_t seed) {
    Random random(seed);
    for (const TensorSpec& spec : model_tensors(config)) {
      auto& values = values_[spec.name];
      shapes_[spec.name] = spec.shape;
      values.resize(size_t(spec.count()));
      const bool vector = spec.shape.size() == 1;
      const double scale = vector ? 0.3 : 1.5 / std::sqrt(double(spec.shape.back()));
      const bool norm = spec.name.find("norm") != std::string::npos;
      for (float& v : values) v = float(scale * (2 * random.uniform() - 1) + (norm ? 1 : 0));
    }
  }
  bool has(const std::string& name) const override { return values_.count(name) > 0; }
  Result<TensorView> tensor(const std::string& name) const override {
    const auto found = values_.find(name);
    if (found == values_.end()) return invalid("no tensor ", name);
    return TensorView{name, TensorType::kF32, shapes_.at(name), reinterpret_cast<const std::byte*>(found->second.data())};
  }
  std::vector<std::string> names() const override {
    std::vector<std::string> out;
    for (const auto& [name, values] : values_) out.push_back(name);
    return out;
  }
  const std::string& path() const override { return path_; }
  std::vector<float>& values(const std::string& name) { return values_.at(name); }

 private:
  std::string path_ = "(memory)";
  std::map<std::string, std::vector<float>> values_;
  std::map<std::string, std::vector<int64_t>> shapes_;
};

inline ModelConfig tiny_config() {
  ModelConfig c;
  c.layers = 2, c.width = 48, c.heads = 6, c.kv_heads = 2, c.head_dim = 8, c.mlp_width = 64, c.vocab_size = 96, c.context_length = 512;
  c.tie_embeddings = true;
  c.plan = attention_plan(c);
  return c;
}

struct NamedPlan {
  std::string name;
  std::vector<LayerPlan> plan;
  friend void PrintTo(const NamedPlan& p, std::ostream* out) { *out << p.name; }
};

// For every mixer, with and without a window: all layers of it, and one kv head of it beside one of attention.
inline std::vector<NamedPlan> plans_of_every_mixer() {
  std::vector<NamedPlan> plans;
  for_each_mixer([&](auto tag) {
    using Mixer = typename decltype(tag)::type;
    for (int window : {0, 5}) {
      if ((Mixer::kNeedsWindow && window == 0) || (!Mixer::kNeedsWindow && !Mixer::kRecurrent && window > 0)) continue;
      auto fields = nlohmann::json::object();
      if (Mixer::kName == std::string("slots")) fields["slots"] = 16;
      const auto part = [&](std::vector<int> heads) {
        return Part{Mixer::kName, std::move(heads), {window, window ? 2 : 0}, fields};
      };
      const std::string name = std::string(Mixer::kName) + (window ? "_window" : "");
      plans.push_back({name, std::vector<LayerPlan>(2, LayerPlan{{part({0, 1})}})});
      plans.push_back({name + "_beside_attention", {LayerPlan{{part({0}), Part{"attention", {1}, {}, {}}}}, LayerPlan{{part({0, 1})}}}});
      for (auto& layer : plans.back().plan) {
        for (auto& p : layer.parts) {
          if (p.config.is_null()) p.config = nlohmann::json::object();
        }
      }
    }
  });
  return plans;
}

inline ModelFiles tiny_files(const std::vector<LayerPlan>& plan, uint64_t seed = 1, bool qwen = false, int head_dim = 8) {
  ModelFiles files;
  files.path = "(memory)";
  files.config = tiny_config();
  files.config.head_dim = head_dim;
  files.config.qkv_bias = files.config.qk_norm = qwen;
  files.config.plan = plan;
  RETORT_CHECK(validate_plan(files.config).ok(), "a plan of the tests");
  files.weights = std::make_shared<RandomStore>(files.config, seed);
  return files;
}

// Of those models' vocabulary.
inline std::vector<int> some_tokens(int64_t count, uint64_t seed) {
  Random random(seed);
  std::vector<int> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(int(random.next() % 96));
  return tokens;
}

}  // namespace retort::testing_support
