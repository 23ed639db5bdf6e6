// What a run would do, before it does it: `retort distill RECIPE --dry-run`.
#include <algorithm>

#include "base/format.h"
#include "base/timing.h"
#include "io/model_files.h"
#include "mixers/list.h"
#include "train/reach.h"
#include "train/logit_cache.h"
#include "train/run.h"
#include "train/schedule.h"
#include "train/second_teacher.h"
#include "train/stage_data.h"
#include "train/student_plan.h"

namespace retort::train {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kBytesPerTrained = 20;  // f32: weight, gradient, two moments, average
constexpr int kBytesPerWeight = 4;

// The second teacher, and where logits are kept.
Status describe_teachers(const StageSpec& stage, const ModelFiles& teacher, Json& out) {
  if (const LossSpec* logits = stage.find(LossKind::kLogits); logits && !logits->cache.empty()) {
    out["cache"] = {{"folder", logits->cache}, {"top_k", logits->top_k},
                    {"bytes_per_token", LogitShape{stage.seq, logits->top_k, teacher.config.vocab_size}.bytes_per_token()}};
  }
  const SwitchSpec& change = stage.switch_teacher;
  if (change.to.empty()) return {};
  RETORT_TRY(const auto second, open_second_teacher(teacher, change.to, stage.seq));
  RETORT_TRY(const auto hash, hash_weights(*second.files.weights));
  int64_t parameters = 0;
  for (const auto& spec : model_tensors(second.files.config)) parameters += spec.count();
  std::string when = cat("on a plateau of ", change.plateau.patience, " times ", change.plateau.every, " steps");
  if (change.when == SwitchSpec::When::kStep) when = cat("after ", change.step, " steps");
  if (change.when == SwitchSpec::When::kFraction) when = cat("after ", format_significant(100 * change.fraction, 3), " %");
  out["second_teacher"] = {{"path", change.to}, {"hash", hash}, {"layers", second.files.config.layers}, {"width", second.files.config.width},
                           {"parameters", parameters}, {"when", when}};
  return {};
}

// Epochs are counted: that takes the text and the tokenizer.
Result<std::vector<int64_t>> count_epochs(const Recipe& recipe, const ModelFiles& teacher, double& seconds) {
  const bool any = std::any_of(recipe.stages.begin(), recipe.stages.end(), [](const StageSpec& s) { return s.budget.epochs > 0; });
  if (!any) return std::vector<int64_t>(recipe.stages.size(), 0);
  RETORT_TRY(const auto data, StageData::load(recipe));
  RETORT_TRY(const auto encode, open_encoders(teacher.path));
  ThreadPool pool;
  const auto begin = Clock::now();
  auto sizes = epoch_sizes(recipe, data, encode, teacher.config.vocab_size, pool);
  seconds = seconds_since(begin);
  return sizes;
}

Result<Json> describe_stage(const StageSpec& stage, const ModelConfig& student, const ModelFiles& teacher, int64_t epoch_size) {
  const Reached within = reached(stage, student);
  int64_t trained = 0, count = 0;
  for (const auto& spec : model_tensors(student)) {
    const auto found = within.find(spec.name);
    if (found == within.end() || !trains(stage, spec.name, spec.group)) continue;
    for (const ElementRange& range : found->second) trained += range.count;
    ++count;
  }
  Json losses = Json::array();
  for (const auto& loss : stage.losses) losses.push_back(cat(loss_name(loss.kind), " (", form_name(loss.form), ")"));
  const int64_t per_step = stage.tokens_per_step();
  RETORT_TRY(const Budget budget, budget_of(stage, epoch_size));
  const BudgetMeter meter(budget, per_step);
  Json out = {{"name", stage.name}, {"losses", losses}, {"layer_wise", stage.layer_wise()}, {"train", stage.train},
              {"tensors_trained", count}, {"parameters_trained", trained}, {"tokens_per_step", per_step}};
  if (stage.budget.minutes > 0) out["minutes"] = stage.budget.minutes;
  if (const auto steps = int64_t(meter.total_steps()); steps > 0) {
    out["steps"] = steps;
    out["tokens"] = steps * per_step;
  }
  if (stage.budget.epochs > 0) {
    out["epochs"] = stage.budget.epochs;
    out[stage.compares_pairs() ? "epoch_pairs" : "epoch_tokens"] = epoch_size;
  }
  RETORT_RETURN_IF_ERROR(describe_teachers(stage, teacher, out));
  out["optimizer_bytes"] = trained * kBytesPerTrained;
  return out;
}

}  // namespace

Result<nlohmann::ordered_json> describe_run(const Recipe& recipe, const std::string& teacher) {
  RETORT_TRY(const auto files, open_model(teacher));
  RETORT_TRY(const auto student, pure_student(files.config, recipe.student));
  RETORT_RETURN_IF_ERROR(check_student(recipe, files.config, student));
  const auto tensors = model_tensors(student);
  int64_t parameters = 0, teacher_parameters = 0;
  for (const auto& spec : tensors) parameters += spec.count();
  for (const auto& spec : model_tensors(files.config)) teacher_parameters += spec.count();
  Json stages = Json::array(), others = Json::array();
  for (const auto& spec : recipe.student.layers) {
    others.push_back(cat(spec.mixer, " in layers ", numbers_text(spec.layers), spec.heads.empty() ? "" : ", kv heads " + numbers_text(spec.heads)));
  }
  double counting = 0;
  RETORT_TRY(const auto sizes, count_epochs(recipe, files, counting));
  int64_t most = 0;
  for (size_t s = 0; s < recipe.stages.size(); ++s) {
    RETORT_TRY(const auto stage, describe_stage(recipe.stages[s], student, files, sizes[s]));
    stages.push_back(stage);
    const int64_t second = stage.contains("second_teacher") ? stage["second_teacher"]["parameters"].get<int64_t>() * kBytesPerWeight : 0;
    most = std::max(most, stage["optimizer_bytes"].get<int64_t>() + second);
  }
  Json out = {{"name", recipe.name},
              {"teacher", {{"path", teacher}, {"layers", files.config.layers}, {"kv_heads", files.config.kv_heads}, {"parameters", teacher_parameters}}},
              {"student", {{"mixer", recipe.student.mixer}, {"window", recipe.student.window.size}, {"sinks", recipe.student.window.sinks},
                           {"layers", others},
                           {"keep", keep_text(recipe.student.keep)}, {"start", recipe.student.start}, {"parameters_all_layers_replaced", parameters}}},
              {"stages", stages},
              // Without activations: they depend on the losses and are small beside the weights in layer-wise stages.
              {"memory_bytes_at_least", teacher_parameters * kBytesPerWeight + most},
              {"recipe", recipe_json(recipe)}};
  if (counting > 0) out["epoch_count_seconds"] = counting;
  return out;
}

std::string description_text(const nlohmann::ordered_json& d) {
  const auto count = [](const Json& value) { return format_count(value.get<int64_t>()); };
  const auto text = [](const Json& value) { return value.get<std::string>(); };
  const auto& teacher = d["teacher"];
  const auto& student = d["student"];
  std::string out = cat("recipe   ", text(d["name"]), "\nteacher  ", text(teacher["path"]), ": ", teacher["layers"], " layers of ", teacher["kv_heads"],
                        " kv heads, ", count(teacher["parameters"]), " parameters\nstudent  ", text(student["mixer"]), ", window ", student["window"],
                        " + ", student["sinks"], " sinks, keeps ", text(student["keep"]), ", starts from ", text(student["start"]), "; ",
                        count(student["parameters_all_layers_replaced"]), " parameters with every layer replaced\n");
  for (const auto& other : student["layers"]) out += cat("         ", text(other), "\n");
  for (const auto& stage : d["stages"]) {
    std::string losses;
    for (const auto& loss : stage["losses"]) losses += (losses.empty() ? "" : " + ") + text(loss);
    out += cat("stage    ", text(stage["name"]), ": ", losses, stage["layer_wise"].get<bool>() ? ", layer by layer" : ", end to end", "; trains ",
               count(stage["parameters_trained"]), " parameters in ", count(stage["tensors_trained"]), " tensors; ");
    if (stage.contains("steps")) out += cat(count(stage["steps"]), " steps, ", count(stage["tokens"]), " tokens");
    if (stage.contains("minutes")) out += cat(stage.contains("steps") ? ", at most " : "", format_duration(60 * stage["minutes"].get<double>()));
    out += cat("; ", count(stage["tokens_per_step"]), " tokens a step\n");
    if (stage.contains("epochs")) {
      const bool pairs = stage.contains("epoch_pairs");
      out += cat("         ", stage["epochs"].get<double>(), " epochs of ", count(stage[pairs ? "epoch_pairs" : "epoch_tokens"]),
                 pairs ? " pairs" : " tokens", "\n");
    }
    if (stage.contains("second_teacher")) {
      const auto& second = stage["second_teacher"];
      out += cat("         second teacher ", text(second["path"]), " (", text(second["hash"]), "), ", second["layers"], " layers of width ", second["width"], ", ",
                 count(second["parameters"]), " parameters: ", text(second["when"]), "\n");
    }
    if (stage.contains("cache")) {
      const auto& cache = stage["cache"];
      out += cat("         logits in ", text(cache["folder"]), ": the ", cache["top_k"], " largest of a position, ", cache["bytes_per_token"], " bytes a token\n");
    }
  }
  if (d.contains("epoch_count_seconds")) out += cat("epochs   counted in ", format_duration(d["epoch_count_seconds"].get<double>()), ", which a run needs too\n");
  return out + cat("memory   at least ", format_bytes(d["memory_bytes_at_least"].get<double>()), "\n");
}

}  // namespace retort::train
