#include "train/student_leaves.h"

#include <algorithm>
#include <set>

#include "train/lora_targets.h"

namespace retort::train {
namespace {

bool listed(const StageSpec& stage, const char* pattern) {
  return std::find(stage.train.begin(), stage.train.end(), pattern) != stage.train.end();
}

// Kept heads beside a mixer's are called as its parts; they train as attention all the same.
StageSpec as_of_attention(StageSpec stage) {
  std::erase_if(stage.train, [](const std::string& p) { return p == "mixers" || p == "projections" || p == "features" || p == "gates"; });
  if (listed(stage, "attention")) stage.train = {"all"};
  return stage;
}

}  // namespace

bool attention_trains(const Recipe& recipe, const PartWeights& part) {
  if (part.part.mixer != Attention::kName) return false;
  return std::any_of(recipe.stages.begin(), recipe.stages.end(), [&](const StageSpec& s) {
    const StageSpec stage = as_of_attention(s);
    return adapts_attention(s) || std::any_of(part.table.begin(), part.table.end(), [&](const TensorSpec& spec) {
      return spec.present() && train::trains(stage, part.prefix + spec.name, spec.group);
    });
  });
}

bool StudentLeaves::trains(const StageSpec& stage, const Reached& reached, const Leaf& leaf) const {
  const StageSpec named = attention_[size_t(&leaf - leaves_.data())] ? as_of_attention(stage) : stage;
  return std::any_of(leaf.slices.begin(), leaf.slices.end(), [&](const Leaf::Slice& s) { return train::trains(named, s.name, s.group) && reached.contains(s.name); });
}

void StudentLeaves::take(TorchModel& student, Owns owns) {
  leaves_.clear();
  attention_.clear();
  std::set<std::string> adapted;
  for (const StageSpec& stage : recipe_.stages) {
    const auto targets = lora_targets(stage, student.config);  // an error was one of the recipe: said before, or by make_stage()
    for (const LoraTarget& target : targets.ok() ? *targets : std::vector<LoraTarget>{}) adapted.insert(target.tensor);
  }
  const auto any_trains = [&](const std::string& name) {
    return adapted.contains(name) || std::any_of(recipe_.stages.begin(), recipe_.stages.end(), [&](const StageSpec& s) { return train::trains(s, name, TrainGroup::kBody); });
  };
  const auto own = [&](at::Tensor& tensor, int layer, std::vector<std::string> names, bool decays) {
    if (!owns.body && std::none_of(names.begin(), names.end(), any_trains)) return;
    tensor = tensor.detach().to(at::kFloat, false, true).contiguous();
    Leaf leaf{tensor, {}, layer, false, {}};
    const int64_t count = tensor.numel() / int64_t(names.size());
    for (size_t i = 0; i < names.size(); ++i) leaf.slices.push_back({names[i], TrainGroup::kBody, decays, int64_t(i) * count, count});
    leaves_.push_back(std::move(leaf));
    attention_.push_back(false);
  };
  for (int l = 0; l < student.config.layers; ++l) {
    for (PartWeights& part : student.layers[l]) take_part(l, part, owns);
    const std::string base = cat("model.layers.", l, ".");
    Body::Layer& body = student.body.layers[l];
    own(body.input_norm, l, {base + "input_layernorm.weight"}, false);
    own(body.post_norm, l, {base + "post_attention_layernorm.weight"}, false);
    own(body.gate_up, l, {base + "mlp.gate_proj.weight", base + "mlp.up_proj.weight"}, true);
    own(body.down, l, {base + "mlp.down_proj.weight"}, true);
  }
  const bool tied = student.config.tie_embeddings;
  own(student.body.embedding, -1, {"model.embed_tokens.weight"}, true);
  if (tied) student.body.head = student.body.embedding;
  if (!tied) own(student.body.head, -1, {"lm_head.weight"}, true);
  own(student.body.final_norm, -1, {"model.norm.weight"}, false);
}

void StudentLeaves::take_part(int layer, PartWeights& part, Owns owns) {
  const bool attention = part.part.mixer == Attention::kName;
  if (attention && !attention_trains(recipe_, part) && !owns.attention) return;
  for (size_t i = 0; i < part.table.size(); ++i) {
    if (!part.values[i].defined()) continue;
    const TensorSpec& spec = part.table[i];
    const bool decays = spec.group == TrainGroup::kProjection && spec.shape.size() > 1;
    part.values[i] = part.values[i].to(at::kFloat).contiguous();
    leaves_.push_back({part.values[i], {}, layer, true, {{part.prefix + spec.name, spec.group, decays, 0, spec.count()}}});
    attention_.push_back(attention);
  }
}

std::vector<at::Tensor> StudentLeaves::tensors(const TorchModel& student) const {
  std::vector<at::Tensor> out;
  for (const Leaf& leaf : leaves_) out.push_back(leaf.value);
  for (const auto& layer : student.layers) {
    for (const PartWeights& part : layer) out.insert(out.end(), part.values.begin(), part.values.end());
  }
  return out;
}

std::optional<StudentLeaves::Place> StudentLeaves::place_of(const TorchModel& student, const TensorSpec& spec) const {
  for (size_t i = 0; i < leaves_.size(); ++i) {
    for (const Leaf::Slice& s : leaves_[i].slices) {
      if (s.name == spec.name) return Place{int64_t(i), s.offset};
    }
  }
  int64_t tensor = int64_t(leaves_.size());
  for (const auto& layer : student.layers) {
    for (const PartWeights& part : layer) {
      for (size_t i = 0; i < part.table.size(); ++i, ++tensor) {
        if (part.values[i].defined() && part.prefix + part.table[i].name == spec.name) return Place{tensor, 0};
      }
    }
  }
  return {};
}

}  // namespace retort::train
