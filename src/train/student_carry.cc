#include "train/student_carry.h"

#include <algorithm>
#include <map>

#include "mixers/list.h"
#include "train/student_start.h"

namespace retort::train {
namespace {

bool is_attention(const Part& part) { return part.mixer == Attention::kName; }

class AttentionWeights : public WeightStore {
 public:
  explicit AttentionWeights(const TorchModel& model) {
    for (const auto& layer : model.layers) {
      if (layer.size() != 1 || !is_attention(layer[0].part)) continue;
      for (size_t i = 0; i < layer[0].table.size(); ++i) {
        const at::Tensor& value = layer[0].values[i];
        if (value.defined()) values_.emplace(layer[0].prefix + layer[0].table[i].name, value.detach().to(at::kFloat).contiguous());
      }
    }
  }
  bool has(const std::string& name) const override { return values_.contains(name); }
  Result<TensorView> tensor(const std::string& name) const override {
    const auto found = values_.find(name);
    if (found == values_.end()) return internal_error(path_, ": no ", name);
    const at::Tensor& value = found->second;
    return TensorView{name, TensorType::kF32, value.sizes().vec(), reinterpret_cast<const std::byte*>(value.data_ptr<float>())};
  }
  std::vector<std::string> names() const override {
    std::vector<std::string> out;
    for (const auto& [name, value] : values_) out.push_back(name);
    return out;
  }
  const std::string& path() const override { return path_; }

 private:
  std::map<std::string, at::Tensor> values_;
  std::string path_ = "the student's attention";
};

std::string heads_text(const std::vector<int>& heads) {
  std::string out;
  for (int h : heads) out += cat(out.empty() ? "" : ",", h);
  return out;
}

Error no_source(const Carry& carry, const ModelConfig& config, int layer, const Part& part) {
  const auto heads = part.kv_heads.size() == size_t(config.kv_heads) ? "all heads" : "kv heads " + heads_text(part.kv_heads);
  std::string there;
  for (const PartWeights& other : carry.before.layers[size_t(layer)]) {
    there += cat(there.empty() ? "" : ", ", other.part.mixer, " over kv heads ", heads_text(other.part.kv_heads));
  }
  return invalid(carry.name, ": layer ", layer, " is not mixer '", part.mixer, "' with window ", part.window.size, " and ", part.config.dump(), " over ", heads,
                 ", which the recipe's student is; it is ", there);
}

}  // namespace

const PartWeights* find_source(const std::vector<PartWeights>& layer, const Part& part) {
  for (const PartWeights& candidate : layer) {
    Part same = candidate.part;
    same.kv_heads = part.kv_heads;
    const auto& heads = candidate.part.kv_heads;
    if (same == part && std::includes(heads.begin(), heads.end(), part.kv_heads.begin(), part.kv_heads.end())) return &candidate;
  }
  return nullptr;
}

Status carry_over(const Carry& carry, const ModelConfig& config, ThreadPool& pool, std::vector<std::vector<PartWeights>>& parts) {
  std::vector<std::vector<PartWeights>> fresh(size_t(config.layers));
  for (int l = 0; l < config.layers; ++l) {
    const auto& layer = carry.before.layers[size_t(l)];
    const bool attention = layer.size() == 1 && is_attention(layer[0].part);
    for (PartWeights& part : parts[size_t(l)]) {
      if (const PartWeights* source = find_source(layer, part.part)) {
        RETORT_RETURN_IF_ERROR(fill_from(*source, part));
      } else if (is_attention(part.part) && carry.starts) {
        RETORT_RETURN_IF_ERROR(carry.teachers(l, part));
      } else if (attention && carry.starts) {
        RETORT_RETURN_IF_ERROR(fill_start(carry.attention, config, l, carry.seed, part, carry.init));
        fresh[size_t(l)].push_back(part);
      } else {
        return no_source(carry, config, l, part.part);
      }
    }
  }
  if (std::all_of(fresh.begin(), fresh.end(), [](const auto& layer) { return layer.empty(); })) return {};
  RETORT_TRY(const Batch batch, carry.text(carry.text_rows, carry.text_seq));
  RETORT_RETURN_IF_ERROR(start_from_data(carry.before, carry.copied, batch, carry.seed, pool, fresh));
  for (size_t l = 0; l < fresh.size(); ++l) {
    for (PartWeights& started : fresh[l]) {
      const auto place = std::find_if(parts[l].begin(), parts[l].end(), [&](const PartWeights& part) { return part.prefix == started.prefix; });
      *place = std::move(started);
    }
  }
  return {};
}

std::unique_ptr<WeightStore> attention_weights(const TorchModel& model) { return std::make_unique<AttentionWeights>(model); }

}  // namespace retort::train
