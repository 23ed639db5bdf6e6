#include "cli/distill/orchestrate.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/atomic_file.h"
#include "base/format.h"
#include "base/hash.h"
#include "base/interrupt.h"
#include "base/mapped_file.h"
#include "base/path.h"
#include "base/threads.h"
#include "cli/distill/child.h"
#include "io/corpus.h"

namespace retort::cli {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr size_t kBytesPerToken = 12;  // far more than any text needs: the file is never the limit
constexpr const char* kOwnFiles[] = {"evaluation", "metrics.jsonl", "results.json", "report.html"};

void say(const std::string& line) {
  std::fprintf(stderr, "%s\n", line.c_str());
  std::fflush(stderr);
}

Json evaluation_json(const EvaluationPlan& e) {
  return {{"windows", e.windows}, {"tokens", e.tokens}, {"window_tokens", e.window_tokens}, {"copy_passages", e.copy_passages},
          {"copy_length", e.copy_length}, {"contexts", e.contexts}, {"decode_tokens", e.decode_tokens},
          {"decode_turns", e.decode_turns}, {"weights", e.weights},
          {"activations", e.activations}, {"speed_weights", e.speed_weights},
          {"prompt", e.prompt}, {"sample_tokens", e.sample_tokens}};
}

Json plan_json(const Plan& plan) {
  Json runs = Json::array();
  for (const auto& run : plan.runs) {
    Json row = {{"name", run.name}, {"recipe", fs::path(run.recipe).filename().string()}};
    if (!run.start.empty()) row["start"] = run.start;
    if (run.minutes > 0) row["minutes"] = run.minutes;
    if (!run.set.empty()) row["set"] = run.set;
    runs.push_back(row);
  }
  return {{"name", plan.name}, {"runs", runs}, {"evaluate", evaluation_json(plan.evaluate)}};
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const auto colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

Result<Json> read_json(const std::string& path) {
  RETORT_TRY(const auto text, read_text_file(path));
  auto document = Json::parse(text, nullptr, false);
  if (!document.is_object()) return invalid(path, ": not a JSON object; remove it");
  return document;
}

// Documents one after another, blank lines between, as much as the measurements take.
Status write_evaluation_text(const std::string& corpus, const std::string& to, size_t bytes, bool mix) {
  RETORT_TRY(auto documents, read_corpus({corpus}));
  if (mix) {
    std::stable_sort(documents.begin(), documents.end(),
                     [](const auto& a, const auto& b) { return fnv1a(a.text) < fnv1a(b.text); });
  }
  std::string out;
  for (const auto& document : documents) {
    if (out.size() >= bytes) break;
    out += (out.empty() ? "" : "\n\n") + document.text;
  }
  if (out.find_first_not_of(" \t\r\n") == std::string::npos) return invalid(corpus, ": no text to measure on");
  return write_text_file(to, out);
}

class Orchestra {
 public:
  Orchestra(const Plan& plan, const PlanOptions& options, const Context& context) : plan_(plan), options_(options), context_(context) {}

  std::vector<std::string> arguments(const PlannedRun& run) const {
    std::vector<std::string> out = {"retort-train", "distill", run.recipe, "--teacher", options_.teacher, "--out", folder(run.name)};
    if (!options_.data.empty()) {
      out.push_back("--data");
      out.insert(out.end(), options_.data.begin(), options_.data.end());
    }
    if (options_.overwrite) out.push_back("--overwrite");
    else if (path_exists(folder(run.name) + "/recipe.yaml")) out.push_back("--resume");
    if (!run.start.empty()) out.insert(out.end(), {"--start", path(start_folder(run))});
    if (run.minutes > 0) out.insert(out.end(), {"--minutes", cat(run.minutes)});
    out.insert(out.end(), {"--set", "name=" + run.name});
    for (const auto& change : run.set) out.insert(out.end(), {"--set", change});
    if (!run.keep_of.empty()) out.insert(out.end(), {"--set", "student.keep=" + kept_text(run.keep_of)});
    if (context_.seed) out.insert(out.end(), {"--seed", cat(*context_.seed)});
    out.insert(out.end(), {"--threads", cat(context_.threads)});
    return out;
  }

  Result<Json> perform() {
    RETORT_TRY(const auto program, train_program());
    RETORT_RETURN_IF_ERROR(check_out());
    for (const auto& run : plan_.runs) RETORT_RETURN_IF_ERROR(train(program, run));
    RETORT_RETURN_IF_ERROR(merge_metrics());
    RETORT_RETURN_IF_ERROR(prepare_texts());
    return measure_all();
  }

 private:
  std::string path(const std::string& name) const { return options_.out + "/" + name; }
  std::string folder(const std::string& run) const { return path(run); }

  // What another run kept, as student.keep takes it: "18.2,23.0". Known once that run has begun.
  std::string kept_text(const std::string& run) const {
    const auto document = read_json(folder(run) + "/train.json");
    if (!document.ok() || !document->contains("kept")) return "<what " + run + " keeps>";
    std::string out;
    for (const auto& name : (*document)["kept"]) out += (out.empty() ? "" : ",") + name.get<std::string>();
    return out.empty() ? "none" : out;
  }

  Status check_out() const {
    if (options_.out.empty()) return invalid("no folder for the runs: name one with --out");
    if (options_.teacher.empty()) return invalid("distill: no teacher given: --teacher MODEL");
    if (!path_exists(options_.teacher)) return invalid(options_.teacher, ": no such model");
    for (const auto& [name, file] : options_.eval_data) {
      if (!path_exists(file)) return invalid("--eval-data ", name, "=", file, ": no such file");
    }
    if (options_.resume && !path_exists(options_.out)) return invalid(options_.out, ": no run to go on with; without --resume a new one starts there");
    if (!options_.overwrite) return {};
    std::error_code ignored;
    for (const char* name : kOwnFiles) fs::remove_all(path(name), ignored);
    return {};
  }

  Status train(const std::string& program, const PlannedRun& run) const {
    if (interrupted()) return stopped();
    if (!path_exists(folder(run.name) + "/train.json")) say(cat(plan_.name, ": run '", run.name, "'"));
    RETORT_TRY(const int code, run_child(program, arguments(run)));
    if (interrupted() || code == 130) return stopped();
    if (code == 0) return {};
    return Error{code == 2 ? ErrorCode::kInvalidInput : ErrorCode::kInternal, cat("run '", run.name, "' failed (exit code ", code, "), see above")};
  }

  Error stopped() const { return {ErrorCode::kInterrupted, "interrupted; go on with: " + options_.how_to_resume}; }

  Status merge_metrics() const {
    std::string out;
    for (const auto& run : plan_.runs) {
      std::ifstream in(folder(run.name) + "/metrics.jsonl");
      for (std::string line; std::getline(in, line);) {
        auto row = Json::parse(line, nullptr, false);
        if (!row.is_object() || !row.contains("stage") || !row["stage"].is_string()) continue;
        row["stage"] = run.name + "/" + row["stage"].get<std::string>();
        out += row.dump() + "\n";
      }
    }
    return write_text_file(path("metrics.jsonl"), out);
  }

  Status prepare_texts() {
    const auto& e = plan_.evaluate;
    const int64_t largest = *std::max_element(e.windows.begin(), e.windows.end());
    const int64_t tokens = std::max({e.tokens, e.window_tokens, largest, e.copy_length * e.copy_passages});
    std::error_code error;
    fs::create_directories(path("evaluation"), error);
    if (error) return io_error("cannot make ", path("evaluation"), ": ", error.message());
    const auto add = [&](const std::string& name, const std::string& corpus, bool mix) -> Status {
      const std::string file = path("evaluation/" + name + ".txt");
      texts_.push_back({name, file});
      return path_exists(file) ? Status() : write_evaluation_text(corpus, file, size_t(tokens) * kBytesPerToken, mix);
    };
    RETORT_RETURN_IF_ERROR(add("held-out", folder(plan_.runs[0].name) + "/held_out.jsonl", false));
    for (const auto& [name, file] : options_.eval_data) RETORT_RETURN_IF_ERROR(add(name, file, true));
    return {};
  }

  // What was measured before under the same conditions is read, otherwise `fn` measures.
  template <class Fn>
  Result<Json> measured(const std::string& name, const std::vector<std::string>& models, Fn&& fn) {
    const std::string file = path("evaluation/" + name + ".json");
    Json conditions = {{"models", models}, {"evaluate", evaluation_json(plan_.evaluate)}, {"texts", Json::array()}, {"trained", Json::array()}};
    for (const auto& text : texts_) conditions["texts"].push_back(text.name);
    for (const auto& model : models) {
      const auto train = read_json(fs::path(model).parent_path().string() + "/train.json");
      conditions["trained"].push_back(train.ok() ? Json{(*train).value("tokens_trained", 0), (*train).value("seconds", 0.0)} : Json());
    }
    if (path_exists(file)) {
      RETORT_TRY(const auto before, read_json(file));
      if (before.contains("conditions") && before["conditions"] == conditions && before.contains("result")) return Json(before["result"]);
    }
    if (interrupted()) return stopped();
    Result<Json> result = fn();
    if (!result.ok()) return interrupted() ? stopped() : result.error();
    const Json document = {{"conditions", conditions}, {"result", *result}};
    RETORT_RETURN_IF_ERROR(write_text_file(file, document.dump(1) + "\n"));
    return result;
  }

  Result<Json> measure(const std::string& name, const std::string& model) {
    return measured(name, {model}, [&] {
      return measure_model(model, plan_.evaluate, texts_, context_, [&](const std::string& what) { say(cat("measuring ", name, ": ", what)); });
    });
  }

  // Fills "throughput" of the teacher and of every student.
  Status add_speed(Json& teacher, Json& students) {
    std::vector<std::string> models{options_.teacher};
    for (const auto& run : plan_.runs) {
      if (run.show) models.push_back(folder(run.name) + "/student");
    }
    RETORT_TRY(const Json rows, measured("speed", models, [&]() -> Result<Json> {
      RETORT_TRY(const auto found, measure_speed(models, plan_.evaluate, texts_[0], context_,
                                                 [&](const std::string& what) { say(cat("measuring decoding speed: ", what)); }));
      return Json(found);
    }));
    teacher["throughput"] = rows[0];
    for (size_t i = 0; i < students.size(); ++i) students[i]["throughput"] = rows[i + 1];
    return {};
  }

  // The run and those it was started from, oldest first.
  std::vector<const PlannedRun*> ancestry(const PlannedRun& run) const {
    std::vector<const PlannedRun*> out = {&run};
    while (!out.front()->start.empty()) {
      const auto parent = std::find_if(plan_.runs.begin(), plan_.runs.end(), [&](const auto& r) { return r.name == start_run(*out.front()); });
      out.insert(out.begin(), &*parent);
    }
    return out;
  }

  Result<Json> student(const PlannedRun& run, const Json& teacher) {
    RETORT_TRY(auto result, measure(run.name, folder(run.name) + "/student"));
    Json out = {{"name", run.name}, {"mixers", result["mixers"]}, {"kept", result["kept"]}, {"perplexity_init", nullptr}};
    if (!run.init.empty()) {
      RETORT_TRY(const auto init, measured(run.name + "-init", {path(run.init)}, [&]() -> Result<Json> {
        say(cat("measuring ", run.name, " as initialised"));
        RETORT_TRY(const double value, measure_perplexity(path(run.init), plan_.evaluate, texts_[0], context_));
        return Json{{"perplexity", value}};
      }));
      out["perplexity_init"] = init["perplexity"];
    }
    const auto ratio = [](const Json& mine, const Json& theirs) -> Json {
      if (!mine.is_number() || !theirs.is_number() || theirs.get<double>() <= 0) return nullptr;
      return mine.get<double>() / theirs.get<double>();
    };
    out["perplexity"] = result["perplexity"];
    out["perplexity_ratio"] = ratio(result["perplexity"], teacher["perplexity"]);
    out["copy_perplexity"] = result["copy_perplexity"];
    int64_t tokens = 0;
    double seconds = 0;
    Json stages = Json::array();
    for (const auto* ancestor : ancestry(run)) {
      RETORT_TRY(const auto train, read_json(folder(ancestor->name) + "/train.json"));
      tokens += train.value("tokens_trained", int64_t{0});
      seconds += train.value("seconds", 0.0);
      if (train.contains("stages")) for (auto stage : train["stages"]) {
        stage["name"] = ancestor->name + "/" + stage.value("name", "");
        stages.push_back(stage);
      }
    }
    out["tokens_trained"] = tokens;
    out["seconds"] = seconds;
    out["stages"] = stages;
    if (result.contains("kept_heads")) out["kept_heads"] = result["kept_heads"];
    out["parameters"] = result["parameters"];
    out["perplexities"] = result["perplexities"];
    for (size_t i = 0; i < out["perplexities"].size(); ++i) {
      out["perplexities"][i]["ratio"] = ratio(out["perplexities"][i]["perplexity"], teacher["perplexities"][i]["perplexity"]);
    }
    out["sample"] = result["sample"];
    return out;
  }

  Result<Json> measure_all() {
    RETORT_TRY(auto teacher, measure("teacher", options_.teacher));
    teacher["name"] = "teacher";
    for (auto& row : teacher["perplexities"]) row["ratio"] = 1.0;
    Json students = Json::array();
    for (const auto& run : plan_.runs) {
      if (!run.show) continue;
      RETORT_TRY(auto row, student(run, teacher));
      students.push_back(std::move(row));
    }
    RETORT_RETURN_IF_ERROR(add_speed(teacher, students));
    double seconds = 0;
    Json hashes;
    for (const auto& run : plan_.runs) {
      RETORT_TRY(const auto train, read_json(folder(run.name) + "/train.json"));
      seconds += train.value("seconds", 0.0);
      hashes = {{"teacher_hash", train.value("teacher_hash", "")}, {"data_hash", train.value("data_hash", "")}};
    }
    const int threads = context_.threads > 0 ? context_.threads : usable_processors();
    Json out = {{"teacher", teacher}, {"students", students}, {"prompt", plan_.evaluate.prompt}, {"minutes", seconds / 60},
                {"machine", {{"cpu", cpu_name()}, {"threads", threads}, {"retort", RETORT_VERSION}}},
                {"recipe", plan_json(plan_)}, {"provenance", hashes}};
    RETORT_RETURN_IF_ERROR(write_text_file(path("results.json"), out.dump(1, ' ', false, Json::error_handler_t::replace) + "\n"));
    return out;
  }

  const Plan& plan_;
  const PlanOptions& options_;
  const Context& context_;
  std::vector<EvaluationText> texts_;
};

}  // namespace

Result<Json> carry_out(const Plan& plan, const PlanOptions& options, const Context& context) {
  return Orchestra(plan, options, context).perform();
}

Json describe_plan(const Plan& plan, const PlanOptions& options, const Context& context) {
  const Orchestra orchestra(plan, options, context);
  Json out = plan_json(plan);
  for (size_t i = 0; i < plan.runs.size(); ++i) out["runs"][i]["command"] = orchestra.arguments(plan.runs[i]);
  return out;
}

}  // namespace retort::cli
