#include "train/preflight.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>
#include <unistd.h>

#include "base/format.h"
#include "base/path.h"
#include "io/hf_config.h"
#include "mixers/list.h"
#include "train/lora_targets.h"
#include "train/reach.h"
#include "train/student_plan.h"

namespace retort::train {
namespace {

namespace fs = std::filesystem;

// The folder itself, or the nearest one above it that is there.
fs::path existing(const std::string& folder) {
  std::error_code ignored;
  fs::path path = fs::absolute(folder, ignored);
  while (!fs::exists(path, ignored) && path.has_parent_path() && path != path.parent_path()) path = path.parent_path();
  return path;
}

}  // namespace

Status check_rows(const Recipe& recipe, const ModelConfig& teacher) {
  for (const auto& stage : recipe.stages) {
    if (teacher.context_length > 0 && stage.seq > teacher.context_length) {
      return invalid("recipe: ", stage.name, ".seq is ", stage.seq, "; the teacher was made for ", teacher.context_length, " tokens at most");
    }
  }
  return {};
}

std::vector<std::string> short_rows(const Recipe& recipe, const ModelConfig& pure) {
  std::vector<std::string> out;
  const KeepSpec& keep = recipe.student.keep;
  const auto student = is_measured(keep) ? Result<ModelConfig>(pure) : hybrid_student(pure, listed_attention(keep, pure.layers));
  if (!student.ok()) return out;  // which is refused elsewhere
  for (const auto& stage : recipe.stages) {
    const Part* widest = nullptr;
    const auto tokens = [](const Part& part) { return part.window.size + part.window.sinks; };
    for (const auto& layer : student->plan) {
      for (const Part& part : layer.parts) {
        const bool joined = part.window.size > 0 && part.mixer != Attention::kName && part.mixer != Window::kName;
        if (joined && stage.seq <= tokens(part) && (!widest || tokens(part) > tokens(*widest))) widest = &part;
      }
    }
    if (!widest) continue;
    out.push_back(cat(stage.name, ".seq is ", stage.seq, ", and the window before '", widest->mixer, "' of ", widest->window.size, " tokens and ",
                      widest->window.sinks, " sinks holds such a row whole: what is behind it sees nothing and learns nothing; expected a seq above ",
                      tokens(*widest), ", better several times as long"));
  }
  return out;
}

Status check_ranks(const Recipe& recipe, const ProcessGroup& group) {
  for (const auto& stage : recipe.stages) {
    if (stage.batch % group.size() == 0) continue;
    const int right = (stage.batch + group.size() - 1) / group.size() * group.size();
    return invalid("recipe: ", stage.name, ".batch is ", stage.batch, stage.compares_pairs() ? " pairs" : " rows", ", which ", group.size(),
                   " ranks cannot share alike; expected a multiple of ", group.size(), ", such as --set ", stage.name, ".batch=", right);
  }
  return {};
}

Status same_inputs(ProcessGroup& group, const Backend& backend, const std::string& teacher, const std::string& tokenizer, const std::string& text) {
  RETORT_RETURN_IF_ERROR(same(group, backend.teacher_hash(), "the teacher " + teacher));
  RETORT_RETURN_IF_ERROR(same(group, config_to_json(backend.teacher()).dump(), "the configuration of the teacher " + teacher));
  RETORT_RETURN_IF_ERROR(same(group, tokenizer, "the tokenizer of " + teacher));
  return same(group, text, "the training text");
}

Trained trained(const StageSpec& stage, const ModelConfig& student) {
  const Reached within = reached(stage, student);
  Trained out;
  for (const auto& spec : model_tensors(student)) {
    const auto found = within.find(spec.name);
    if (found == within.end() || !trains(stage, spec.name, spec.group)) continue;
    for (const ElementRange& range : found->second) out.parameters += range.count;
    ++out.tensors;
  }
  if (const auto targets = lora_targets(stage, student); targets.ok()) {  // else the stage is refused elsewhere
    for (const LoraTarget& target : *targets) out.parameters += stage.lora.r * (target.rows + target.columns), out.tensors += 2;
  }
  return out;
}

DiskNeeds disk_needs(const Recipe& recipe, const ModelConfig& student) {
  DiskNeeds needs;
  int64_t weights = 0, parameters = 0, of_stage = 0;
  std::set<std::string> adapted;  // by LoRA, which is merged into them
  for (const auto& stage : recipe.stages) {
    const auto targets = lora_targets(stage, student);
    for (size_t i = 0; targets.ok() && i < targets->size(); ++i) adapted.insert((*targets)[i].tensor);
  }
  for (const auto& spec : model_tensors(student)) {
    parameters += spec.count();
    const bool mixer = spec.name.find(".mixer.") != std::string::npos;  // what a start makes is saved, whether it trains or not
    const bool any = mixer || adapted.count(spec.name) > 0 ||
                     std::any_of(recipe.stages.begin(), recipe.stages.end(), [&](const StageSpec& s) { return trains(s, spec.name, spec.group); });
    if (any) weights += spec.count();
  }
  for (const auto& stage : recipe.stages) {
    const LossSpec* dpo = stage.find(LossKind::kDpo);
    int64_t floats = trained(stage, student).parameters * (stage.ema > 0 ? 3 : 2);
    if (dpo && dpo->reference == Reference::kStart) floats += weights;
    of_stage = std::max(of_stage, floats);
  }
  needs.checkpoint = int64_t(sizeof(float)) * (weights + of_stage);
  needs.checkpoints = recipe.checkpoint_minutes > 0 ? 3 : recipe.stages.size() > 1 || recipe.student.stepwise.any() ? 2 : 0;
  needs.student = 2 * parameters * (recipe.save_init ? 2 : 1);  // matrices are written in 16 bits
  return needs;
}

int64_t free_bytes(const std::string& folder) {
  std::error_code error;
  const auto space = fs::space(existing(folder), error);
  return error ? -1 : int64_t(std::min<uintmax_t>(space.available, INT64_MAX));
}

Status check_room(const Recipe& recipe, const ModelConfig& student, const std::string& folder) {
  const fs::path place = existing(folder);
  if (!is_folder(place.string())) return invalid("--out ", folder, ": ", place.string(), " is a file; name a place inside a folder");
  if (::access(place.c_str(), W_OK) != 0) return io_error("--out ", folder, ": cannot write to ", place.string(), ": ", std::strerror(errno));
  const DiskNeeds needs = disk_needs(recipe, student);
  const int64_t room = free_bytes(folder);
  if (room < 0 || room >= needs.least()) return {};
  const std::string checkpoints = needs.checkpoints > 0 ? cat("two checkpoints of ", format_bytes(double(needs.checkpoint)), ", ") : "";
  return io_error("--out ", folder, ": the run needs ", format_bytes(double(needs.least())), " at least (", checkpoints, "the student), and ",
                  format_bytes(double(room)), " are free there");
}

}  // namespace retort::train
