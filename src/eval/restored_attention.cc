#include "eval/restored_attention.h"

#include <algorithm>
#include <deque>
#include <map>

#include "eval/layer_match.h"
#include "mixers/list.h"
#include "model/head_cut.h"

namespace retort {
namespace {

// Views of two other stores, and values of its own.
class ComposedWeights : public WeightStore {
 public:
  ComposedWeights(std::shared_ptr<const WeightStore> teacher, std::shared_ptr<const WeightStore> student)
      : teacher_(std::move(teacher)), student_(std::move(student)) {}

  void add(const std::string& name, TensorView view) {
    view.name = name;
    views_[name] = std::move(view);
  }
  void add(const std::string& name, std::vector<int64_t> shape, std::vector<float> values) {
    const auto& kept = values_.emplace_back(std::move(values));
    views_[name] = {name, TensorType::kF32, std::move(shape), reinterpret_cast<const std::byte*>(kept.data())};
  }

  bool has(const std::string& name) const override { return views_.contains(name); }
  Result<TensorView> tensor(const std::string& name) const override {
    const auto found = views_.find(name);
    if (found == views_.end()) return invalid(path(), ": no tensor ", name);
    return found->second;
  }
  std::vector<std::string> names() const override {
    std::vector<std::string> out;
    for (const auto& [name, view] : views_) out.push_back(name);
    return out;
  }
  const std::string& path() const override { return student_->path(); }

 private:
  std::shared_ptr<const WeightStore> teacher_, student_;  // the views' memory
  std::map<std::string, TensorView> views_;
  std::deque<std::vector<float>> values_;
};

// A part of the new model and the part that it is cut from.
struct Origin {
  const ModelFiles* files;
  int layer, part;
};

Status copy_part(const Origin& from, const ModelConfig& config, int layer, int index, ComposedWeights& out) {
  const Part& source = from.files->config.plan[size_t(from.layer)].parts[size_t(from.part)];
  const Part& part = config.plan[size_t(layer)].parts[size_t(index)];
  std::vector<int> kept;
  for (const int g : part.kv_heads) {
    kept.push_back(int(std::find(source.kv_heads.begin(), source.kv_heads.end(), g) - source.kv_heads.begin()));
  }
  const auto whole = part_tensors(from.files->config, source), wanted = part_tensors(config, part);
  for (size_t i = 0; i < wanted.size(); ++i) {
    if (!wanted[i].present()) continue;
    const std::string name = part_prefix(config, layer, index) + wanted[i].name;
    RETORT_TRY(const TensorView view, from.files->weights->tensor(part_prefix(from.files->config, from.layer, from.part) + whole[i].name));
    if (wanted[i].shape == whole[i].shape) {
      out.add(name, view);
      continue;
    }
    RETORT_TRY(const auto values, read_f32(view));
    auto cut = cut_heads(whole[i], int(source.kv_heads.size()), config.group(), values, kept);
    if (int64_t(cut.size()) != wanted[i].count()) return internal_error(name, ": ", cut.size(), " values of ", wanted[i].count());
    out.add(name, wanted[i].shape, std::move(cut));
  }
  return {};
}

// The heads of a layer that are to be the teacher's, rising.
Result<std::vector<int>> heads_of(const ModelConfig& student, int layer, const std::vector<AttentionUnit>& kept) {
  std::vector<int> out;
  for (const AttentionUnit& unit : kept) {
    if (unit.layer != layer) continue;
    for (int g = unit.kv_head < 0 ? 0 : unit.kv_head; g < (unit.kv_head < 0 ? student.kv_heads : unit.kv_head + 1); ++g) {
      const auto& parts = student.plan[size_t(layer)].parts;
      const bool attention = std::any_of(parts.begin(), parts.end(), [&](const Part& part) {
        return part.mixer == "attention" && std::find(part.kv_heads.begin(), part.kv_heads.end(), g) != part.kv_heads.end();
      });
      if (attention) return invalid("layer ", layer, ", kv head ", g, " is attention already");
      if (std::find(out.begin(), out.end(), g) != out.end()) return invalid("layer ", layer, ", kv head ", g, " is named twice");
      out.push_back(g);
    }
  }
  std::sort(out.begin(), out.end());
  return out;
}

Status check_units(const ModelFiles& teacher, const ModelFiles& student, const std::vector<AttentionUnit>& kept) {
  const ModelConfig& s = student.config;
  RETORT_RETURN_IF_ERROR(check_comparable(teacher.config, s));
  for (const AttentionUnit& unit : kept) {
    if (unit.layer < 0 || unit.layer >= s.layers || unit.kv_head >= s.kv_heads) {
      return invalid("no ", unit_name(unit), " among ", s.layers, " layers of ", s.kv_heads, " kv heads");
    }
  }
  return {};
}

}  // namespace

std::string unit_name(const AttentionUnit& unit) { return unit.kv_head < 0 ? cat(unit.layer) : cat(unit.layer, ".", unit.kv_head); }

std::vector<AttentionUnit> replaced_units(const ModelConfig& student, bool heads) {
  std::vector<AttentionUnit> out;
  for (int l = 0; l < student.layers; ++l) {
    std::vector<int> replaced;
    for (const Part& part : student.plan[size_t(l)].parts) {
      if (part.mixer != "attention") replaced.insert(replaced.end(), part.kv_heads.begin(), part.kv_heads.end());
    }
    std::sort(replaced.begin(), replaced.end());
    if (!heads && int(replaced.size()) == student.kv_heads) out.push_back({l, -1});
    if (heads) {
      for (const int g : replaced) out.push_back({l, g});
    }
  }
  return out;
}

Result<ModelFiles> restore_attention(const ModelFiles& teacher, const ModelFiles& student, const std::vector<AttentionUnit>& kept) {
  RETORT_RETURN_IF_ERROR(check_units(teacher, student, kept));
  auto weights = std::make_shared<ComposedWeights>(teacher.weights, student.weights);
  ModelFiles out = student;
  ModelConfig& config = out.config;
  std::vector<std::vector<Origin>> origins(static_cast<size_t>(config.layers));
  for (int l = 0; l < config.layers; ++l) {
    RETORT_TRY(const auto heads, heads_of(student.config, l, kept));
    std::vector<Part> parts;
    if (!heads.empty()) {
      parts.push_back({"attention", heads, {}, teacher.config.plan[size_t(l)].parts[0].config});
      origins[size_t(l)].push_back({&teacher, l, 0});
    }
    for (size_t p = 0; p < student.config.plan[size_t(l)].parts.size(); ++p) {
      Part part = student.config.plan[size_t(l)].parts[p];
      std::erase_if(part.kv_heads, [&](int g) { return std::find(heads.begin(), heads.end(), g) != heads.end(); });
      if (part.kv_heads.empty()) continue;
      parts.push_back(std::move(part));
      origins[size_t(l)].push_back({&student, l, int(p)});
    }
    config.plan[size_t(l)].parts = std::move(parts);
  }
  RETORT_RETURN_IF_ERROR(validate_plan(config));
  for (int l = 0; l < config.layers; ++l) {
    for (size_t p = 0; p < origins[size_t(l)].size(); ++p) RETORT_RETURN_IF_ERROR(copy_part(origins[size_t(l)][p], config, l, int(p), *weights));
  }
  for (const TensorSpec& spec : model_tensors(config)) {
    if (weights->has(spec.name)) continue;
    RETORT_TRY(const TensorView view, student.weights->tensor(spec.name));  // norms, MLPs, embeddings
    weights->add(spec.name, view);
  }
  out.weights = weights;
  return out;
}

}  // namespace retort
