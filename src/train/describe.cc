// What a run would do, before it does it: `retort distill RECIPE --dry-run`. Whatever would be refused before the first step is refused here.
#include <algorithm>
#include <cmath>
#include <optional>

#include "base/format.h"
#include "base/timing.h"
#include "io/model_files.h"
#include "mixers/list.h"
#include "train/data_files.h"
#include "train/logit_cache.h"
#include "train/lora_targets.h"
#include "train/preflight.h"
#include "train/run.h"
#include "train/same_recipe.h"
#include "train/schedule.h"
#include "train/second_teacher.h"
#include "train/stage_cache.h"
#include "train/stage_data.h"
#include "train/step_probe.h"
#include "train/stepwise.h"
#include "train/student_plan.h"

namespace retort::train {
namespace {

using Json = nlohmann::ordered_json;
using Heads = std::vector<std::pair<int, int>>;

constexpr int kBytesPerTrained = 20;  // f32: weight, gradient, two moments, average
constexpr int kBytesPerWeight = 4;
constexpr size_t kSampledDocuments = 64, kSampledBytes = 4096;

// The second teacher, and where logits are kept.
Status describe_teachers(const StageSpec& stage, const ModelFiles& teacher, Json& out) {
  if (const LossSpec* logits = stage.find(LossKind::kLogits); logits && !logits->cache.empty()) {
    out["cache"] = {{"folder", logits->cache}, {"top_k", logits->top_k},
                    {"bytes_per_token", LogitShape{stage.seq, logits->top_k, teacher.config.vocab_size}.bytes_per_token()}};
  }
  const SwitchSpec& change = stage.switch_teacher;
  if (change.to.empty()) return {};
  RETORT_TRY(const auto second, open_second_teacher(teacher, change.to, stage.seq));
  RETORT_TRY(const auto hash, hash_weights(*second.weights));
  int64_t parameters = 0;
  for (const auto& spec : model_tensors(second.config)) parameters += spec.count();
  std::string when = cat("on a plateau of ", change.plateau.patience, " times ", change.plateau.every, " steps");
  if (change.when == SwitchSpec::When::kStep) when = cat("after ", change.step, " steps");
  if (change.when == SwitchSpec::When::kFraction) when = cat("after ", format_significant(100 * change.fraction, 3), " %");
  out["second_teacher"] = {{"path", change.to}, {"hash", hash}, {"layers", second.config.layers}, {"width", second.config.width},
                           {"parameters", parameters}, {"when", when}};
  return {};
}

Result<Json> describe_stage(const StageSpec& stage, const ModelConfig& student, const ModelFiles& teacher, int64_t epoch_size) {
  const Trained what = trained(stage, student);
  RETORT_TRY(const auto targets, lora_targets(stage, student));
  Json losses = Json::array();
  for (const auto& loss : stage.losses) {
    losses.push_back(cat(loss_name(loss.kind), " (", form_name(loss.form), ")", loss.weight == 1 ? "" : cat(" * ", loss.weight)));
  }
  const int64_t per_step = stage.tokens_per_step();
  const bool counted = stage.budget.epochs <= 0 || epoch_size > 0;  // what an epoch is, the text says
  Budget budget = stage.budget;
  if (counted) {
    RETORT_TRY(budget, budget_of(stage, epoch_size));
  }
  const BudgetMeter meter(budget, per_step);
  Json out = {{"name", stage.name}, {"losses", losses}, {"layer_wise", stage.layer_wise()}, {"train", stage.train},
              {"tensors_trained", what.tensors}, {"parameters_trained", what.parameters}, {"tokens_per_step", per_step}};
  if (stage.lora.r > 0) out["lora"] = {{"r", stage.lora.r}, {"matrices", targets.size()}};
  if (stage.budget.minutes > 0) out["minutes"] = stage.budget.minutes;
  if (const auto steps = int64_t(meter.total_steps()); counted && steps > 0) {
    out["steps"] = steps;
    out["tokens"] = steps * per_step;
  }
  if (stage.budget.epochs > 0) {
    out["epochs"] = stage.budget.epochs;
    if (counted) out[stage.compares_pairs() ? "epoch_pairs" : "epoch_tokens"] = epoch_size;
  }
  RETORT_RETURN_IF_ERROR(describe_teachers(stage, teacher, out));
  out["optimizer_bytes"] = what.parameters * kBytesPerTrained;
  return out;
}

size_t text_bytes(const Document& document) {
  size_t bytes = document.text.size();
  for (const auto& message : document.messages) bytes += message.content.size();
  return bytes;
}

std::string beginning(const Document& document) {
  std::string text = document.text;
  for (const auto& message : document.messages) text += message.content;
  if (text.size() <= kSampledBytes) return text;
  size_t end = kSampledBytes;
  while (end > 0 && (uint8_t(text[end]) & 0xc0) == 0x80) --end;  // whole characters
  return text.substr(0, end);
}

// Of the documents of one source: tokens a byte, from the beginnings of some of them, spread over the source.
Result<double> tokens_per_byte(const std::vector<const Document*>& documents, const Encoders& encode) {
  const size_t stride = documents.size() / kSampledDocuments + 1;
  double tokens = 0, bytes = 0;
  for (size_t i = 0; i < documents.size(); i += stride) {
    const std::string text = beginning(*documents[i]);
    RETORT_TRY(const auto ids, encode.text(text));
    tokens += double(ids.size()), bytes += double(text.size());
  }
  return bytes > 0 ? tokens / bytes : 0;
}

Result<Json> describe_data(const Recipe& recipe, const TrainingText& text, const Encoders& encode) {
  RETORT_TRY(const auto files, data_files(recipe));
  Json sources = Json::array();
  const auto weights = weights_of(recipe.data.train);
  for (size_t s = 0; s < recipe.data.train.size(); ++s) {
    std::vector<const Document*> documents;
    int64_t bytes = 0;
    for (const auto& document : text.train()) {
      if (document.source != int(s)) continue;
      documents.push_back(&document);
      bytes += int64_t(text_bytes(document));
    }
    RETORT_TRY(const double rate, tokens_per_byte(documents, encode));
    Json source = {{"file", recipe.data.train[s].file}, {"documents", documents.size()}, {"text_bytes", bytes},
                   {"tokens_estimated", std::llround(rate * double(bytes))}};
    if (!weights.empty()) source["weight"] = weights[s];
    sources.push_back(std::move(source));
  }
  return Json{{"files", Json::parse(data_files_json(files).dump())}, {"sources", sources}, {"hash", text.hash()}, {"held_out_documents", text.held_out().size()}};
}

// What the measured steps come to, added to the stages; the sum of seconds.
double add_times(const Recipe& running, size_t steps_of_first, const ProbedRun& probed, Json& stages) {
  double sum = 0;
  for (size_t i = 0; i < stages.size(); ++i) {
    const StageTime& time = probed.stages[written_stage(i, steps_of_first)];
    const double clock = running.stages[i].budget.minutes * 60, by_clock = clock > 0 ? std::max(1.0, clock / time.step_seconds) : 0;
    double steps = stages[i].value("steps", 0.0);
    if (by_clock > 0) steps = steps > 0 ? std::min(steps, by_clock) : by_clock;
    stages[i]["step_seconds"] = time.step_seconds;
    stages[i]["expected_steps"] = std::llround(steps);
    stages[i]["expected_tokens"] = std::llround(steps) * time.step_tokens;
    stages[i]["expected_seconds"] = steps * time.step_seconds;
    sum += steps * time.step_seconds;
  }
  return sum;
}

// What is known without the weights, and what they are measured on.
struct Plan {
  ModelConfig last;  // the student after the last step
  std::vector<Step> steps;
  Recipe running;
  std::optional<StageData> data;
  Encoders encode;
  int64_t largest_second = 0;  // bytes of the largest second teacher
  Json out;
};

Result<Plan> plan_run(const Recipe& recipe, const RunOptions& options, const RunParts& parts, const ProcessGroup& group) {
  const bool writes = !options.out.empty() && group.leads();
  if (writes) RETORT_RETURN_IF_ERROR(check_run_folder(options));
  if (writes && options.resume) RETORT_RETURN_IF_ERROR(same_recipe_file(recipe, options.out));
  RETORT_TRY(const auto files, open_model(options.teacher));
  RETORT_RETURN_IF_ERROR(check_keep(recipe.student.keep, files.config));
  RETORT_RETURN_IF_ERROR(check_rows(recipe, files.config));
  RETORT_RETURN_IF_ERROR(check_ranks(recipe, group));
  RETORT_TRY(const auto student, pure_student(files.config, recipe.student));
  RETORT_RETURN_IF_ERROR(check_student(recipe, files.config, student));
  RETORT_TRY(const auto steps, steps_of(recipe.student, student));
  RETORT_TRY(const Recipe running, with_steps(recipe, steps));
  if (writes && !options.resume) RETORT_RETURN_IF_ERROR(check_room(recipe, student, options.out));
  int64_t parameters = 0, teacher_parameters = 0, most = 0, largest_second = 0;
  for (const auto& spec : model_tensors(student)) parameters += spec.count();
  for (const auto& spec : model_tensors(files.config)) teacher_parameters += spec.count();
  Json stages = Json::array(), others = Json::array();
  for (const auto& spec : recipe.student.layers) {
    others.push_back(cat(spec.mixer, " in layers ", numbers_text(spec.layers), spec.heads.empty() ? "" : ", kv heads " + numbers_text(spec.heads)));
  }
  std::optional<StageData> data;
  Encoders encode;
  std::vector<int64_t> sizes(recipe.stages.size(), 0);
  double counting = 0;
  if (!recipe.data.train.empty()) {
    RETORT_TRY(data, StageData::load(recipe));
    RETORT_TRY(encode, parts.open_encoders(options.teacher));
    ThreadPool pool(options.threads);
    const auto begin = Clock::now();
    RETORT_TRY(sizes, epoch_sizes(recipe, *data, encode, files.config.vocab_size, pool));
    counting = seconds_since(begin);
  }
  // Of a layout that is measured nothing is known yet: as if every layer were replaced.
  RETORT_TRY(const ModelConfig last, hybrid_student(student, is_measured(recipe.student.keep) ? Heads{} : listed_attention(recipe.student.keep, student.layers)));
  for (size_t i = 0; i < running.stages.size(); ++i) {
    ModelConfig then = last;
    if (i < steps.size()) then.plan = steps[i].plan;
    RETORT_TRY(const auto stage, describe_stage(running.stages[i], then, files, sizes[written_stage(i, steps.size())]));
    stages.push_back(stage);
    const int64_t second = stage.contains("second_teacher") ? stage["second_teacher"]["parameters"].get<int64_t>() * kBytesPerWeight : 0;
    most = std::max(most, stage["optimizer_bytes"].get<int64_t>() + second);
    largest_second = std::max(largest_second, second);
  }
  const DiskNeeds disk = disk_needs(recipe, student);
  Json out = {{"name", recipe.name},
              {"teacher", {{"path", options.teacher}, {"layers", files.config.layers}, {"kv_heads", files.config.kv_heads}, {"parameters", teacher_parameters}}},
              {"student", {{"mixer", recipe.student.mixer}, {"window", recipe.student.window.size}, {"sinks", recipe.student.window.sinks},
                           {"layers", others},
                           {"keep", keep_text(recipe.student.keep)}, {"start", recipe.student.start},
                           {"init", recipe.student.init == StudentInit::kRandom ? "random" : "teacher"}, {"parameters_all_layers_replaced", parameters}}},
              {"stages", stages},
              // Without activations: they depend on the losses and are small beside the weights in layer-wise stages.
              {"memory_bytes_at_least", teacher_parameters * kBytesPerWeight + most},
              {"disk", {{"checkpoint_bytes", disk.checkpoint}, {"checkpoints", disk.checkpoints}, {"student_bytes", disk.student}, {"bytes", disk.most()}}}};
  if (const auto warnings = short_rows(recipe, student); !warnings.empty()) out["warnings"] = warnings;
  if (!options.out.empty()) out["disk"]["free_bytes"] = free_bytes(options.out);
  const bool epochs = std::any_of(recipe.stages.begin(), recipe.stages.end(), [](const StageSpec& s) { return s.budget.epochs > 0; });
  if (epochs) out["epoch_count_seconds"] = counting;
  if (!group.alone()) out["ranks"] = group.size();
  if (data) {
    RETORT_TRY(out["data"], describe_data(recipe, *data->recipe(), encode));
  }
  return Plan{last, steps, running, std::move(data), encode, largest_second, std::move(out)};
}

Status measure(const Recipe& recipe, const RunOptions& options, const RunParts& parts, ProcessGroup& group, Plan& plan) {
  RETORT_TRY(const double rows_at_once, of_leader(group, double(ThreadPool(options.threads).size())));
  const auto backend = parts.open_backend(recipe, {options.teacher, options.threads, options.group, int(rows_at_once), plan.encode.tokens});
  RETORT_RETURN_IF_ERROR(agree(group, backend));
  RETORT_RETURN_IF_ERROR(same_inputs(group, **backend, options.teacher, plan.encode.tokenizer, plan.data->hash()));
  plan.out["teacher"]["hash"] = (*backend)->teacher_hash();
  RETORT_RETURN_IF_ERROR(agree(group, check_caches(recipe, *plan.data, plan.encode, **backend)));
  RETORT_TRY(const auto probed, probe_steps(recipe, **backend, plan.last, *plan.data, plan.encode, options.threads, group));
  plan.out["expected"] = {{"seconds", add_times(plan.running, plan.steps.size(), probed, plan.out["stages"])}, {"peak_bytes", probed.peak_bytes},
                          {"rule", "steps of every stage, measured here just now, times their number; without the student's start and checkpoints"}};
  if (plan.largest_second > 0) plan.out["expected"]["second_teacher_bytes"] = plan.largest_second;  // the measured steps are the first one's
  return {};
}

Result<Json> describe(const Recipe& recipe, const RunOptions& options, const RunParts& parts) {
  ProcessGroup& group = options.group ? *options.group : one_process();
  RETORT_RETURN_IF_ERROR(same_command(group, recipe, "dry run"));
  auto planned = plan_run(recipe, options, parts, group);
  RETORT_RETURN_IF_ERROR(agree(group, planned));
  Plan& plan = *planned;
  if (plan.data) RETORT_RETURN_IF_ERROR(measure(recipe, options, parts, group, plan));
  if (!plan.steps.empty()) plan.out["steps"] = steps_json(plan.steps);
  plan.out["recipe"] = recipe_json(recipe);
  return plan.out;
}

std::string stage_text(const Json& stage) {
  const auto count = [](const Json& value) { return format_count(value.get<int64_t>()); };
  std::string losses;
  for (const auto& loss : stage["losses"]) losses += (losses.empty() ? "" : " + ") + loss.get<std::string>();
  std::string out = cat("stage    ", stage["name"].get<std::string>(), ": ", losses, stage["layer_wise"].get<bool>() ? ", layer by layer" : ", end to end",
                        "; trains ", count(stage["parameters_trained"]), " parameters in ", count(stage["tensors_trained"]), " tensors");
  if (stage.contains("lora")) out += cat(", with LoRA of rank ", stage["lora"]["r"], " on ", stage["lora"]["matrices"], " matrices");
  out += "; ";
  if (stage.contains("steps")) out += cat(count(stage["steps"]), " steps, ", count(stage["tokens"]), " tokens");
  if (stage.contains("minutes")) out += cat(stage.contains("steps") ? ", at most " : "", format_duration(60 * stage["minutes"].get<double>()));
  out += cat("; ", count(stage["tokens_per_step"]), " tokens a step\n");
  if (stage.contains("epochs")) {
    const bool pairs = stage.contains("epoch_pairs");
    out += cat("         ", stage["epochs"].get<double>(), " epochs");
    if (pairs || stage.contains("epoch_tokens")) out += cat(" of ", count(stage[pairs ? "epoch_pairs" : "epoch_tokens"]), pairs ? " pairs" : " tokens");
    out += "\n";
  }
  if (stage.contains("second_teacher")) {
    const auto& second = stage["second_teacher"];
    out += cat("         second teacher ", second["path"].get<std::string>(), " (", second["hash"].get<std::string>(), "), ", second["layers"], " layers of width ",
               second["width"], ", ", count(second["parameters"]), " parameters: ", second["when"].get<std::string>(), "\n");
  }
  if (stage.contains("cache")) {
    const auto& cache = stage["cache"];
    out += cat("         logits in ", cache["folder"].get<std::string>(), ": the ", cache["top_k"], " largest of a position, ", cache["bytes_per_token"], " bytes a token\n");
  }
  if (!stage.contains("step_seconds")) return out;
  return out + cat("         a step takes ", format_duration(stage["step_seconds"].get<double>()), ": ", count(stage["expected_steps"]), " steps, ",
                   count(stage["expected_tokens"]), " tokens in ", format_duration(stage["expected_seconds"].get<double>()), "\n");
}

std::string data_text(const Json& data) {
  std::string out;
  for (const auto& source : data["sources"]) {
    out += cat("data     ", source["file"].get<std::string>(), ": ", format_count(source["documents"].get<int64_t>()), " documents to train on, ",
               format_bytes(source["text_bytes"].get<double>()), " of text, about ", format_count(source["tokens_estimated"].get<int64_t>()), " tokens",
               source.contains("weight") ? cat(", weight ", source["weight"]) : "", "\n");
  }
  for (const auto& file : data["files"]) {
    out += cat("file     ", file["file"].get<std::string>(), ": ", format_bytes(file["bytes"].get<double>()), ", SHA-256 ", file["sha256"].get<std::string>(), "\n");
  }
  return out;
}

}  // namespace

Result<nlohmann::ordered_json> describe_run(const Recipe& recipe, const RunOptions& options, const RunParts& parts) {
  return describe(recipe, options, parts);
}

std::string description_text(const nlohmann::ordered_json& d) {
  const auto count = [](const Json& value) { return format_count(value.get<int64_t>()); };
  const auto text = [](const Json& value) { return value.get<std::string>(); };
  const auto bytes = [](const Json& value) { return format_bytes(value.get<double>()); };
  const auto& teacher = d["teacher"];
  const auto& student = d["student"];
  std::string out = cat("recipe   ", text(d["name"]), "\nteacher  ", text(teacher["path"]), ": ", teacher["layers"], " layers of ", teacher["kv_heads"],
                        " kv heads, ", count(teacher["parameters"]), " parameters", teacher.contains("hash") ? ", hash " + text(teacher["hash"]) : "",
                        "\nstudent  ", text(student["mixer"]), ", window ", student["window"],
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
  if (d.contains("data")) out += data_text(d["data"]);
  for (const auto& stage : d["stages"]) out += stage_text(stage);
  if (d.contains("warnings")) {
    for (const auto& warning : d["warnings"]) out += cat("warning  ", text(warning), "\n");
  }
  if (d.contains("epoch_count_seconds")) out += cat("epochs   counted in ", format_duration(d["epoch_count_seconds"].get<double>()), ", which a run needs too\n");
  const auto& disk = d["disk"];
  const bool known = disk.value("free_bytes", int64_t{-1}) >= 0;
  out += cat("disk     ", bytes(disk["bytes"]), " at most: ", disk["checkpoints"], " checkpoints of ", bytes(disk["checkpoint_bytes"]), " and the student's ",
             bytes(disk["student_bytes"]), known ? cat("; ", bytes(disk["free_bytes"]), " are free") : "", "\n");
  if (!d.contains("expected")) {
    return out + cat("memory   at least ", bytes(d["memory_bytes_at_least"]), "\ntime     with --data some steps are measured\n");
  }
  const auto& expected = d["expected"];
  const bool second = expected.contains("second_teacher_bytes");
  return out + cat("memory   ", bytes(expected["peak_bytes"]), ", the peak of the measured steps", d.contains("ranks") ? cat(" on that of ", d["ranks"], " ranks which has most") : "",
                   second ? cat(", and at most ", bytes(expected["second_teacher_bytes"]), " for the second teacher; its steps are not measured") : "", "\ntime     ", format_duration(expected["seconds"].get<double>()), " of ",
                   text(expected["rule"]), "\n");
}

}  // namespace retort::train
