// What a run would do, before it does it: `retort distill RECIPE --dry-run`.
#include <algorithm>

#include "base/format.h"
#include "io/model_files.h"
#include "mixers/list.h"
#include "train/lora_targets.h"
#include "train/reach.h"
#include "train/run.h"
#include "train/schedule.h"
#include "train/stepwise.h"
#include "train/student_plan.h"

namespace retort::train {
namespace {

using Json = nlohmann::ordered_json;
using Heads = std::vector<std::pair<int, int>>;

constexpr int kBytesPerTrained = 20;  // f32: weight, gradient, two moments, average
constexpr int kBytesPerWeight = 4;

Result<Json> describe_stage(const StageSpec& stage, const ModelConfig& student) {
  const Reached within = reached(stage, student);
  int64_t trained = 0, count = 0;
  for (const auto& spec : model_tensors(student)) {
    const auto found = within.find(spec.name);
    if (found == within.end() || !trains(stage, spec.name, spec.group)) continue;
    for (const ElementRange& range : found->second) trained += range.count;
    ++count;
  }
  RETORT_TRY(const auto targets, lora_targets(stage, student));
  for (const LoraTarget& target : targets) {
    trained += stage.lora.r * (target.rows + target.columns);
    count += 2;
  }
  Json losses = Json::array();
  for (const auto& loss : stage.losses) losses.push_back(cat(loss_name(loss.kind), " (", form_name(loss.form), ")"));
  const int64_t per_step = stage.tokens_per_step();
  const BudgetMeter meter(stage.budget, per_step);
  Json out = {{"name", stage.name}, {"losses", losses}, {"layer_wise", stage.layer_wise()}, {"train", stage.train},
              {"tensors_trained", count}, {"parameters_trained", trained}, {"tokens_per_step", per_step}};
  if (stage.lora.r > 0) out["lora"] = {{"r", stage.lora.r}, {"matrices", targets.size()}};
  if (stage.budget.minutes > 0) out["minutes"] = stage.budget.minutes;
  if (const auto steps = int64_t(meter.total_steps()); steps > 0) {
    out["steps"] = steps;
    out["tokens"] = steps * per_step;
  }
  out["optimizer_bytes"] = trained * kBytesPerTrained;
  return out;
}

}  // namespace

Result<nlohmann::ordered_json> describe_run(const Recipe& recipe, const std::string& teacher) {
  RETORT_TRY(const auto files, open_model(teacher));
  RETORT_TRY(const auto student, pure_student(files.config, recipe.student));
  RETORT_RETURN_IF_ERROR(check_keep(recipe.student.keep, files.config));
  RETORT_RETURN_IF_ERROR(check_student(recipe, files.config, student));
  RETORT_TRY(const auto steps, steps_of(recipe.student, student));
  RETORT_TRY(const Recipe running, with_steps(recipe, steps));
  const auto tensors = model_tensors(student);
  int64_t parameters = 0, teacher_parameters = 0;
  for (const auto& spec : tensors) parameters += spec.count();
  for (const auto& spec : model_tensors(files.config)) teacher_parameters += spec.count();
  Json stages = Json::array(), others = Json::array();
  for (const auto& spec : recipe.student.layers) {
    others.push_back(cat(spec.mixer, " in layers ", numbers_text(spec.layers), spec.heads.empty() ? "" : ", kv heads " + numbers_text(spec.heads)));
  }
  int64_t most = 0;
  // Of a layout that is measured nothing is known yet: as if every layer were replaced.
  RETORT_TRY(const ModelConfig last, hybrid_student(student, is_measured(recipe.student.keep) ? Heads{} : listed_attention(recipe.student.keep, student.layers)));
  for (size_t i = 0; i < running.stages.size(); ++i) {
    ModelConfig then = last;
    if (i < steps.size()) then.plan = steps[i].plan;
    RETORT_TRY(auto stage, describe_stage(running.stages[i], then));
    stages.push_back(std::move(stage));
    most = std::max(most, stages.back()["optimizer_bytes"].get<int64_t>());
  }
  Json out = {{"name", recipe.name},
              {"teacher", {{"path", teacher}, {"layers", files.config.layers}, {"kv_heads", files.config.kv_heads}, {"parameters", teacher_parameters}}},
              {"student", {{"mixer", recipe.student.mixer}, {"window", recipe.student.window.size}, {"sinks", recipe.student.window.sinks},
                           {"layers", others},
                           {"keep", keep_text(recipe.student.keep)}, {"start", recipe.student.start},
                           {"init", recipe.student.init == StudentInit::kRandom ? "random" : "teacher"}, {"parameters_all_layers_replaced", parameters}}},
              {"stages", stages},
              // Without activations: they depend on the losses and are small beside the weights in layer-wise stages.
              {"memory_bytes_at_least", teacher_parameters * kBytesPerWeight + most},
              {"recipe", recipe_json(recipe)}};
  if (!steps.empty()) out["steps"] = steps_json(steps);
  return out;
}

std::string description_text(const nlohmann::ordered_json& d) {
  const auto count = [](const Json& value) { return format_count(value.get<int64_t>()); };
  const auto text = [](const Json& value) { return value.get<std::string>(); };
  const auto& teacher = d["teacher"];
  const auto& student = d["student"];
  std::string out = cat("recipe   ", text(d["name"]), "\nteacher  ", text(teacher["path"]), ": ", teacher["layers"], " layers of ", teacher["kv_heads"],
                        " kv heads, ", count(teacher["parameters"]), " parameters\nstudent  ", text(student["mixer"]), ", window ", student["window"],
                        " + ", student["sinks"], " sinks, keeps ", text(student["keep"]), ", starts from ", text(student["start"]),
                        text(student["init"]) == "random" ? " with random projections; " : "; ",
                        count(student["parameters_all_layers_replaced"]), " parameters with every layer replaced\n");
  for (const auto& other : student["layers"]) out += cat("         ", text(other), "\n");
  if (d.contains("steps")) {
    for (const auto& step : d["steps"]) {
      const std::string left = text(step["attention"]);
      out += cat("step     ", text(step["step"]), ": replaces layers ", text(step["replaces"]), left.empty() ? "; no attention stays" : "; attention in layers " + left, "\n");
    }
  }
  for (const auto& stage : d["stages"]) {
    std::string losses;
    for (const auto& loss : stage["losses"]) losses += (losses.empty() ? "" : " + ") + text(loss);
    out += cat("stage    ", text(stage["name"]), ": ", losses, stage["layer_wise"].get<bool>() ? ", layer by layer" : ", end to end", "; trains ",
               count(stage["parameters_trained"]), " parameters in ", count(stage["tensors_trained"]), " tensors");
    if (stage.contains("lora")) out += cat(", with LoRA of rank ", stage["lora"]["r"], " on ", stage["lora"]["matrices"], " matrices");
    out += "; ";
    if (stage.contains("steps")) out += cat(count(stage["steps"]), " steps, ", count(stage["tokens"]), " tokens");
    if (stage.contains("minutes")) out += cat(stage.contains("steps") ? ", at most " : "", format_duration(60 * stage["minutes"].get<double>()));
    out += cat("; ", count(stage["tokens_per_step"]), " tokens a step\n");
  }
  return out + cat("memory   at least ", format_bytes(d["memory_bytes_at_least"].get<double>()), "\n");
}

}  // namespace retort::train
