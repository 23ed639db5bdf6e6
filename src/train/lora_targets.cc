#include "train/lora_targets.h"

#include <algorithm>
#include <fnmatch.h>

#include "base/suggest.h"
#include "mixers/list.h"
#include "train/reach.h"

namespace retort::train {
namespace {

struct Role {
  const char* name;
  TeacherSource source;           // kNone: a tensor of the MLPs
  const char* tensor = "";
};
constexpr Role kRoles[] = {{"q", TeacherSource::kQuery}, {"k", TeacherSource::kKey}, {"v", TeacherSource::kValue}, {"o", TeacherSource::kOutput},
                           {"gate", TeacherSource::kNone, ".mlp.gate_proj."}, {"up", TeacherSource::kNone, ".mlp.up_proj."},
                           {"down", TeacherSource::kNone, ".mlp.down_proj."}};

const Role* find_role(const std::string& name) {
  const auto found = std::find_if(std::begin(kRoles), std::end(kRoles), [&](const Role& role) { return name == role.name; });
  return found == std::end(kRoles) ? nullptr : found;
}

bool is_matrix(const TensorSpec& spec) { return spec.present() && spec.shape.size() == 2 && spec.floor == Precision::kQuantised; }

LoraTarget whole(const TensorSpec& spec) { return {spec.name, spec.name, spec.group, 0, spec.shape[0], spec.shape[1]}; }

// What of a tensor an entry of `on` names.
std::vector<LoraTarget> named(const std::string& entry, const TensorSpec& spec) {
  const Role* role = find_role(entry);
  if (!role) return fnmatch(entry.c_str(), spec.name.c_str(), 0) == 0 ? std::vector{whole(spec)} : std::vector<LoraTarget>{};
  if (role->source == TeacherSource::kNone) return spec.name.find(role->tensor) != std::string::npos ? std::vector{whole(spec)} : std::vector<LoraTarget>{};
  std::vector<LoraTarget> out;
  int64_t first = 0;
  for (const InitBlock& block : spec.init) {
    const int64_t rows = block.rows > 0 ? block.rows : spec.shape[0] - first;
    if (block.kind == InitBlock::Kind::kTeacher && !block.bias && block.source == role->source) {
      const bool all = rows == spec.shape[0];
      out.push_back(all ? whole(spec) : LoraTarget{spec.name, cat(spec.name, ".", role->name), spec.group, first, rows, spec.shape[1]});
    }
    first += rows;
  }
  return out;
}

bool overlap(const LoraTarget& a, const LoraTarget& b) {
  return a.tensor == b.tensor && a.first_row < b.first_row + b.rows && b.first_row < a.first_row + a.rows;
}

Error names_nothing(const StageSpec& stage, const std::string& entry) {
  std::vector<std::string> names;
  std::string list;
  for (const Role& role : kRoles) names.emplace_back(role.name), list += cat(list.empty() ? "" : ", ", role.name);
  return invalid("recipe: ", stage.name, ".train.lora.on: no matrix of this student that the stage's losses reach is called '", entry, "'",
                 suggestion(entry, names), "; q, k, v, o, gate, up, down and globs on tensor names are known");
}

}  // namespace

Result<std::vector<LoraTarget>> lora_targets(const StageSpec& stage, const ModelConfig& student) {
  std::vector<LoraTarget> out;
  if (stage.lora.r == 0) return out;
  const Reached within = reached(stage, student);
  std::vector<bool> used(stage.lora.on.size(), false);
  for (const TensorSpec& spec : model_tensors(student)) {
    if (!is_matrix(spec) || !within.contains(spec.name)) continue;
    for (size_t i = 0; i < stage.lora.on.size(); ++i) {
      for (LoraTarget& target : named(stage.lora.on[i], spec)) {
        used[i] = true;
        if (trains(stage, spec.name, spec.group)) {
          return invalid("recipe: ", stage.name, ".train: ", spec.name, " trains itself, and has LoRA; one of them");
        }
        if (std::none_of(out.begin(), out.end(), [&](const LoraTarget& other) { return overlap(other, target); })) out.push_back(std::move(target));
      }
    }
  }
  const auto unused = std::find(used.begin(), used.end(), false);
  if (unused != used.end()) return names_nothing(stage, stage.lora.on[size_t(unused - used.begin())]);
  return out;
}

bool adapts_attention(const StageSpec& stage) {
  return stage.lora.r > 0 && std::any_of(stage.lora.on.begin(), stage.lora.on.end(), [](const std::string& entry) {
    const Role* role = find_role(entry);
    return !role || role->source != TeacherSource::kNone;
  });
}

}  // namespace retort::train
