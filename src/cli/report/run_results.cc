#include "cli/report/run_results.h"

#include <cmath>
#include <fstream>
#include <set>
#include <sstream>

#include "base/path.h"

namespace retort::cli {
namespace {

using Json = nlohmann::ordered_json;

// Reads fields of one object; the first wrong type is kept, with the path to the field.
class Fields {
 public:
  Fields(const Json& object, std::string where, Status& status) : object_(object), where_(std::move(where)), status_(status) {
    if (!object_.is_object()) fail("", "an object");
  }

  std::optional<double> number(const char* key) const {
    const Json* value = find(key);
    if (!value) return std::nullopt;
    if (!value->is_number()) return fail(key, "a number"), std::nullopt;
    return value->get<double>();
  }
  std::string text(const char* key) const {
    const Json* value = find(key);
    if (!value) return "";
    if (!value->is_string()) return fail(key, "text"), "";
    return value->get<std::string>();
  }
  // Every number under a key that `wanted` takes, by the name that it gives; "" is none.
  template <class Fn>
  std::map<std::string, double> numbers(Fn&& wanted) const {
    std::map<std::string, double> out;
    for (const auto& [key, value] : object_.items()) {
      const std::string name = wanted(key);
      if (!name.empty() && value.is_number() && std::isfinite(value.template get<double>())) out[name] = value.template get<double>();
    }
    return out;
  }
  Json any(const char* key) const {
    const Json* value = find(key);
    return value ? *value : Json();
  }
  template <class Fn>
  void each(const char* key, Fn&& fn) const {
    const Json* value = find(key);
    if (!value) return;
    if (!value->is_array()) return fail(key, "a list");
    for (size_t i = 0; i < value->size() && status_.ok(); ++i) fn(Fields((*value)[i], cat(where_, ".", key, "[", i, "]"), status_));
  }

 private:
  const Json* find(const char* key) const {
    if (!object_.is_object()) return nullptr;
    const auto at = object_.find(key);
    return at == object_.end() || at->is_null() ? nullptr : &*at;
  }
  void fail(const char* key, const char* expected) const {
    if (status_.ok()) status_ = invalid(where_, *key ? "." : "", key, ": ", expected, " is expected");
  }

  const Json& object_;
  std::string where_;
  Status& status_;
};

ModelResult read_model(const Fields& f) {
  ModelResult m;
  m.name = f.text("name");
  m.mixers = f.text("mixers");
  m.kept = f.text("kept");
  m.sample = f.text("sample");
  m.perplexity_init = f.number("perplexity_init");
  m.perplexity = f.number("perplexity");
  m.perplexity_ratio = f.number("perplexity_ratio");
  m.copy_perplexity = f.number("copy_perplexity");
  m.tokens_trained = f.number("tokens_trained");
  m.seconds = f.number("seconds");
  f.each("perplexities", [&](const Fields& p) {
    m.perplexities.push_back({p.text("corpus"), p.number("window").value_or(0), p.number("perplexity"), p.number("ratio")});
  });
  f.each("throughput", [&](const Fields& p) {
    m.throughput.push_back({p.number("context").value_or(0), p.number("tokens_per_second"), p.number("state_bytes")});
  });
  return m;
}

Status read_results(const std::string& path, RunResults& run) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return io_error(path, ": cannot be read");
  const Json document = Json::parse(file, nullptr, false);
  if (document.is_discarded()) return invalid(path, ": not JSON");
  Status status;
  const Fields top(document, path, status);
  if (const auto teacher = top.any("teacher"); !teacher.is_null()) run.teacher = read_model(Fields(teacher, path + ".teacher", status));
  if (run.teacher.name.empty()) run.teacher.name = "teacher";
  top.each("students", [&](const Fields& f) { run.students.push_back(read_model(f)); });
  run.prompt = top.text("prompt");
  run.machine = top.any("machine");
  run.recipe = top.any("recipe");
  run.provenance = top.any("provenance");
  run.finished = run.trained = true;
  return status;
}

// A run that is no plan: its recipe, and what it came to.
Status read_single_run(const std::string& folder, RunResults& run) {
  run.trained = path_exists(folder + "/train.json");
  const std::string path = folder + (run.trained ? "/train.json" : "/recipe.json");
  if (!path_exists(path)) return {};
  std::ifstream file(path, std::ios::binary);
  const Json document = Json::parse(file, nullptr, false);
  if (document.is_discarded()) return invalid(path, ": not JSON");
  Status status;
  const Fields top(document, path, status);
  run.name = top.text("name");
  run.recipe = run.trained ? top.any("recipe") : document;
  if (!run.trained) return status;
  for (const char* key : {"teacher_hash", "data_hash", "tokens_trained", "seconds", "kept"}) run.provenance[key] = top.any(key);
  return status;
}

Status add_matrices(const std::string& folder, const std::string& student, RunResults& run) {
  const std::string path = folder + "/matrices.json";
  if (!path_exists(path)) return {};
  RETORT_TRY(auto pictures, read_matrices(path));
  pictures.student = student;
  run.matrices.push_back(std::move(pictures));
  return {};
}

std::string loss_of(const std::string& key) { return key.rfind("loss/", 0) == 0 ? key.substr(5) : ""; }

// Numbers of a line that are no losses and have no chart of their own.
std::string measure_of(const std::string& key) {
  static const std::set<std::string> kOthers = {"step", "steps", "loss", "lr", "grad_norm", "tokens", "tokens_per_s", "time", "gemm_share"};
  return kOthers.count(key) || !loss_of(key).empty() ? "" : key;
}

LayerPoint read_layers(const Json& layers, double step) {
  LayerPoint point;
  point.step = step;
  for (const auto& [name, values] : layers.items()) {
    for (const auto& value : values) point.losses[name].push_back(value.is_number() ? std::optional(value.get<double>()) : std::nullopt);
  }
  return point;
}

Status read_metrics(const std::string& path, RunResults& run) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return io_error(path, ": cannot be read");
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    if (line.empty()) continue;
    const Json row = Json::parse(line, nullptr, false);
    if (row.is_discarded()) {
      if (file.eof()) break;  // the last line of a run that is being written or was killed
      return invalid(path, ":", number, ": not JSON");
    }
    Status status;
    const Fields f(row, cat(path, ":", number), status);
    const auto name = f.text("stage");
    const auto loss = f.number("loss");
    MetricPoint point{f.number("step").value_or(0), f.number("tokens").value_or(0), loss.value_or(0), f.number("lr"), f.number("tokens_per_s"), {}, {}};
    RETORT_RETURN_IF_ERROR(status);
    point.losses = f.numbers(loss_of);
    point.measures = f.numbers(measure_of);
    StageMetrics* stage = nullptr;
    for (auto& s : run.stages) stage = s.name == name ? &s : stage;
    if (!stage) stage = &run.stages.emplace_back(StageMetrics{name, {}, {}, {}});
    // A resumed run logs some steps twice: the later ones count.
    while (!stage->points.empty() && stage->points.back().step >= point.step) stage->points.pop_back();
    while (!stage->layers.empty() && stage->layers.back().step >= point.step) stage->layers.pop_back();
    while (!stage->skipped.empty() && stage->skipped.back() >= point.step) stage->skipped.pop_back();
    if (!loss || !std::isfinite(*loss)) {
      stage->skipped.push_back(point.step);
      continue;
    }
    if (const Json layers = f.any("layers"); layers.is_object()) stage->layers.push_back(read_layers(layers, point.step));
    stage->points.push_back(std::move(point));
  }
  return {};
}

}  // namespace

Result<RunResults> read_run(const std::string& folder) {
  RunResults run;
  run.folder = folder;
  const auto results = folder + "/results.json", metrics = folder + "/metrics.jsonl";
  const bool has_results = path_exists(results), has_metrics = path_exists(metrics);
  if (!has_results && !has_metrics) {
    return invalid(folder, ": neither results.json nor metrics.jsonl; expected the --out folder of `retort distill`");
  }
  RETORT_RETURN_IF_ERROR(has_results ? read_results(results, run) : read_single_run(folder, run));
  if (has_metrics) RETORT_RETURN_IF_ERROR(read_metrics(metrics, run));
  RETORT_RETURN_IF_ERROR(add_matrices(folder, "", run));
  for (const auto& student : run.students) {
    if (student.name.find('/') == std::string::npos && !student.name.empty()) RETORT_RETURN_IF_ERROR(add_matrices(folder + "/" + student.name, student.name, run));
  }
  return run;
}

}  // namespace retort::cli
