#include "train/student_plan.h"

#include <algorithm>
#include <fnmatch.h>
#include <numeric>

#include "io/model_files.h"
#include "model/layout.h"
#include "mixers/list.h"
#include "train/lora_targets.h"
#include "train/reach.h"

namespace retort::train {
namespace {

// What trains() knows by name; some have no tensor in some students.
constexpr const char* kGroups[] = {"all", "mixers", "projections", "features", "gates", "attention", "mlp", "norms", "embeddings"};

bool is_group(const std::string& pattern) { return std::find(std::begin(kGroups), std::end(kGroups), pattern) != std::end(kGroups); }

std::string group_names() {
  std::string out;
  for (const char* name : kGroups) out += (out.empty() ? "" : ", ") + std::string(name);
  return out;
}

Part part_of(const MixerSpec& spec, const std::vector<int>& kv_heads) {
  return {spec.mixer, kv_heads, spec.mixer == Attention::kName ? WindowConfig() : spec.window, spec.config};
}

std::string mixers_whose_rows_sum_to_one() {
  std::string out;
  for_each_mixer([&](auto tag) {
    Part part;
    part.mixer = decltype(tag)::type::kName;
    if (rows_sum_to_one(part)) out += (out.empty() ? "" : ", ") + part.mixer;
  });
  return out;
}

// A window within the context, by the key that a person wrote; validate_sizes() knows only the config.
Status check_window(const ModelConfig& sizes, const MixerSpec& spec, const std::string& key) {
  const int64_t tokens = int64_t(spec.window.size) + spec.window.sinks;
  if (tokens <= sizes.context_length || spec.mixer == Attention::kName) return {};
  return invalid("recipe: ", key, ".window is ", spec.window.size, " with ", spec.window.sinks, " sinks, longer than the model's context of ",
                 sizes.context_length, ", which mixer 'attention' covers");
}

// The windows, layers and kv heads that the recipe names are the student's.
Status check_layers(const ModelConfig& sizes, const StudentSpec& student) {
  RETORT_RETURN_IF_ERROR(check_window(sizes, student, "student"));
  for (size_t i = 0; i < student.layers.size(); ++i) {
    const LayerSpec& spec = student.layers[i];
    RETORT_RETURN_IF_ERROR(check_window(sizes, spec, cat("student.layers[", i, "]")));
    if (spec.layers.back() >= sizes.layers) {
      return invalid("recipe: student.layers[", i, "] names layer ", spec.layers.back(), "; the model has layers 0 to ", sizes.layers - 1);
    }
    if (!spec.heads.empty() && spec.heads.back() >= sizes.kv_heads) {
      return invalid("recipe: student.layers[", i, "] names kv head ", spec.heads.back(), "; the model has kv heads 0 to ", sizes.kv_heads - 1);
    }
  }
  return {};
}

}  // namespace

Result<ModelConfig> student_sizes(const ModelConfig& teacher, const StudentSpec& student) {
  if (student.start == "teacher") return teacher;
  RETORT_TRY(const ModelFiles files, open_model(student.start));
  const ModelConfig& draft = files.config;
  if (draft.layers == teacher.layers) return teacher;
  const auto sizes = [](const ModelConfig& c) {
    return cat("width ", c.width, ", ", c.heads, " heads, ", c.kv_heads, " kv heads of ", c.head_dim, ", MLPs of ", c.mlp_width, " and ", c.vocab_size, " tokens");
  };
  const bool same = sizes(draft) == sizes(teacher) && draft.qkv_bias == teacher.qkv_bias && draft.qk_norm == teacher.qk_norm;
  if (!same) return invalid("student.start: ", student.start, " has ", sizes(draft), "; the teacher has ", sizes(teacher), ": only the number of layers may differ");
  return draft;
}

Result<ModelConfig> pure_student(const ModelConfig& teacher, const StudentSpec& student) {
  RETORT_TRY(ModelConfig config, student_sizes(teacher, student));
  RETORT_RETURN_IF_ERROR(check_layers(config, student));
  for (int l = 0; l < config.layers; ++l) {
    std::vector<int> rest(size_t(config.kv_heads));
    std::iota(rest.begin(), rest.end(), 0);
    const std::vector<int> all = rest;
    std::vector<Part> others;
    for (const LayerSpec& spec : student.layers) {
      if (!std::binary_search(spec.layers.begin(), spec.layers.end(), l)) continue;
      others.push_back(part_of(spec, spec.heads.empty() ? all : spec.heads));
      for (int g : others.back().kv_heads) std::erase(rest, g);
    }
    auto& parts = config.plan[size_t(l)].parts;
    parts.clear();
    if (!rest.empty()) parts.push_back(part_of(student, rest));
    parts.insert(parts.end(), others.begin(), others.end());
  }
  RETORT_RETURN_IF_ERROR(validate_plan(config));
  return config;
}

Status check_keep(const KeepSpec& keep, const ModelConfig& teacher) {
  const int heads = teacher.layers * teacher.kv_heads;
  if (keep.kind == KeepSpec::Kind::kHeads && keep.count >= heads) {
    return invalid("recipe: student.keep is heads:", keep.count, "; the model has ", heads, " kv heads, and at least one must go");
  }
  if (keep.kind == KeepSpec::Kind::kLayers && keep.count >= teacher.layers) {
    return invalid("recipe: student.keep is layers:", keep.count, "; the model has ", teacher.layers, ", and at least one must go");
  }
  if (keep.kind != KeepSpec::Kind::kList) return {};
  for (const auto& [l, g] : keep.list) {
    if (l < 0 || l >= teacher.layers || g >= teacher.kv_heads) {
      return invalid("recipe: student.keep names ", l, g < 0 ? "" : cat(".", g), "; the model has layers 0 to ", teacher.layers - 1,
                     " with kv heads 0 to ", teacher.kv_heads - 1);
    }
  }
  return {};
}

bool is_measured(const KeepSpec& keep) { return keep.kind == KeepSpec::Kind::kHeads || keep.kind == KeepSpec::Kind::kLayers; }

std::vector<std::pair<int, int>> listed_attention(const KeepSpec& keep, int layers) {
  if (keep.kind != KeepSpec::Kind::kFraction) return keep.list;
  std::vector<std::pair<int, int>> kept;
  for (int l : interleaved_layers(keep.fraction, layers)) kept.emplace_back(l, -1);
  return kept;
}

Result<ModelConfig> hybrid_student(ModelConfig config, const std::vector<std::pair<int, int>>& kept) {
  if (kept.empty()) return config;
  std::vector<std::vector<bool>> exact(size_t(config.layers), std::vector<bool>(size_t(config.kv_heads), false));
  for (const auto& [l, g] : kept) {
    for (int h = 0; h < config.kv_heads; ++h) {
      if (g < 0 || g == h) exact[size_t(l)][size_t(h)] = true;
    }
  }
  for (int l = 0; l < config.layers; ++l) {
    auto& parts = config.plan[size_t(l)].parts;
    Part attention;
    for (Part& part : parts) {
      if (part.mixer == Attention::kName) {
        for (int h : part.kv_heads) exact[size_t(l)][size_t(h)] = true;
      }
      std::erase_if(part.kv_heads, [&](int h) { return exact[size_t(l)][size_t(h)]; });
    }
    std::erase_if(parts, [](const Part& part) { return part.kv_heads.empty(); });
    for (int h = 0; h < config.kv_heads; ++h) {
      if (exact[size_t(l)][size_t(h)]) attention.kv_heads.push_back(h);
    }
    if (!attention.kv_heads.empty()) parts.push_back(attention);
  }
  RETORT_RETURN_IF_ERROR(validate_plan(config));
  return config;
}

Error trains_nothing(const StageSpec& stage, const ModelConfig& student) {
  return invalid("recipe: stage '", stage.name, "' trains no tensor of this student that its losses reach",
                 is_plain_transformer(student) ? "; all of its layers are the teacher's attention" : "");
}

Status check_trained(const Recipe& recipe, const ModelConfig& student) {
  const auto tensors = model_tensors(student);
  for (const auto& stage : recipe.stages) {
    for (const auto& pattern : stage.train) {
      const bool known = is_group(pattern) || std::any_of(tensors.begin(), tensors.end(), [&](const TensorSpec& spec) {
        return fnmatch(pattern.c_str(), spec.name.c_str(), 0) == 0;
      });
      if (!known) {
        return invalid("recipe: ", stage.name, ".train: no tensor of this student is called '", pattern, "', and the groups are: ", group_names());
      }
    }
    RETORT_TRY(const auto adapted, lora_targets(stage, student));
    if (!adapted.empty()) continue;
    const Reached within = reached(stage, student);
    const bool any = std::any_of(tensors.begin(), tensors.end(), [&](const TensorSpec& spec) {
      return trains(stage, spec.name, spec.group) && within.contains(spec.name);
    });
    if (!any) return trains_nothing(stage, student);
  }
  return {};
}

namespace {

Status check_depth(const Recipe& recipe, const ModelConfig& teacher, const ModelConfig& student) {
  if (student.layers == teacher.layers) return {};
  const std::string depths = cat(recipe.student.start, " has ", student.layers, " layers, the teacher ", teacher.layers);
  for (const auto& stage : recipe.stages) {
    if (!stage.layer_wise()) continue;
    return invalid("recipe: stage '", stage.name, "' compares layer by layer, and ", depths, ": train it end to end, with logits or ce");
  }
  if (recipe.student.stepwise.any()) {
    return invalid("recipe: student.stepwise replaces attention of the teacher's layers, and ", depths, ": remove it");
  }
  if (recipe.student.keep.kind != KeepSpec::Kind::kNone) {
    return invalid("recipe: student.keep is ", keep_text(recipe.student.keep), ", and ", depths, ": name its attention with mixer: attention");
  }
  return {};
}

}  // namespace

Status check_student(const Recipe& recipe, const ModelConfig& teacher, const ModelConfig& student) {
  RETORT_RETURN_IF_ERROR(check_depth(recipe, teacher, student));
  RETORT_RETURN_IF_ERROR(check_losses(recipe, student));
  if (is_measured(recipe.student.keep)) return {};
  RETORT_TRY(const ModelConfig hybrid, hybrid_student(student, listed_attention(recipe.student.keep, student.layers)));
  return check_trained(recipe, hybrid);
}

Status check_losses(const Recipe& recipe, const ModelConfig& student) {
  for (const auto& stage : recipe.stages) {
    for (const auto& loss : stage.losses) {
      const std::string where = cat("recipe: ", stage.name, ".loss.", loss_name(loss.kind));
      if (loss.kind == LossKind::kHidden && student.layers % loss.gap != 0) {
        return invalid(where, ".gap is ", loss.gap, ", which does not divide the ", student.layers, " layers of the model; 1 always does");
      }
      const bool matrices = loss.kind == LossKind::kMatrix, rows = loss.kind == LossKind::kAttnXent;
      if (!matrices && !rows) continue;
      for (int l = 0; l < student.layers; ++l) {
        for (const Part& part : student.plan[size_t(l)].parts) {
          if (!mixes_by_matrix(part)) {
            return invalid(where, ": mixer '", part.mixer, "' of layer ", l, " has no mixing matrix per head, as every channel has a decay of its own; "
                           "use attn_out or hidden");
          }
          if (rows && !rows_sum_to_one(part)) {
            return invalid(where, ": rows of the mixing matrix of mixer '", part.mixer, "' (layer ", l, ") do not sum to 1; use matrix, or one of ",
                           mixers_whose_rows_sum_to_one());
          }
        }
      }
    }
  }
  return {};
}

}  // namespace retort::train
