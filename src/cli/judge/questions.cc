#include "cli/judge/questions.h"

#include <algorithm>
#include <filesystem>

#include "base/sha256.h"
#include "eval/tasks/dataset.h"
#include "eval/tasks/python_text.h"

namespace retort::cli {
namespace {

using harness::Json;
using harness::Row;

Result<JudgeQuestion> mt_bench_question(const Row& row) {
  JudgeQuestion out;
  const auto id = row.value().find("question_id");
  if (id == row.value().end() || !(id->is_number_integer() || id->is_string())) return row.bad("key 'question_id' must be a number or a string");
  out.id = *id;
  RETORT_TRY(out.category, row.text("category"));
  RETORT_TRY(out.turns, row.texts("turns"));
  if (out.turns.empty()) return row.bad("key 'turns' has no turn");
  return out;
}

Result<std::vector<JudgeQuestion>> mt_bench(const std::string& content, const std::string& path) {
  RETORT_TRY(const auto rows, harness::read_rows(content, path));
  std::vector<JudgeQuestion> out;
  for (const Row& row : rows) {
    RETORT_TRY(auto question, mt_bench_question(row));
    const auto same = [&](const JudgeQuestion& other) { return other.id == question.id; };
    if (std::any_of(out.begin(), out.end(), same)) return row.bad("question_id ", question.id.dump(), " stands there twice");
    out.push_back(std::move(question));
  }
  return out;
}

Result<std::vector<JudgeQuestion>> alpaca_eval(const std::string& content, const std::string& path) {
  const Json list = Json::parse(content, nullptr, /*allow_exceptions=*/false);
  if (!list.is_array() || list.empty()) return invalid(path, ": a JSON list of objects with \"instruction\" is expected");
  std::vector<JudgeQuestion> out;
  for (const Json& item : list) {
    const Row row(item, cat(path, ": item ", out.size() + 1));
    if (!item.is_object()) return row.bad("not a JSON object");
    JudgeQuestion question;
    question.id = out.size();
    RETORT_TRY(std::string instruction, row.text("instruction"));
    question.turns = {std::move(instruction)};
    if (item.contains("dataset")) {
      RETORT_TRY(question.dataset, row.text("dataset"));
    }
    out.push_back(std::move(question));
  }
  return out;
}

}  // namespace

const std::vector<JudgeTask>& judge_tasks() {
  static const std::vector<JudgeTask> list = {
      {JudgeBenchmark::kMtBench, "mt_bench", "answers for a judge, two turns; mt_bench/question.jsonl of FastChat", "mt_bench/question.jsonl", 1024},
      {JudgeBenchmark::kAlpacaEval, "alpaca_eval", "answers for a judge; alpaca_eval.json of tatsu-lab/alpaca_eval", "alpaca_eval.json", 2048},
  };
  return list;
}

const JudgeTask* find_judge_task(const std::string& name) {
  const auto found = std::find_if(judge_tasks().begin(), judge_tasks().end(), [&](const JudgeTask& task) { return task.name == name; });
  return found == judge_tasks().end() ? nullptr : &*found;
}

Result<std::vector<JudgeQuestion>> read_questions(const JudgeTask& task, const std::string& content, const std::string& path) {
  return task.benchmark == JudgeBenchmark::kMtBench ? mt_bench(content, path) : alpaca_eval(content, path);
}

double temperature_of(const JudgeTask& task, const JudgeQuestion& question) {
  if (task.benchmark == JudgeBenchmark::kAlpacaEval) return 0.7;
  const auto is_one_of = [&](std::initializer_list<const char*> names) { return std::find(names.begin(), names.end(), question.category) != names.end(); };
  if (is_one_of({"extraction", "math", "coding", "reasoning"})) return 0;
  return is_one_of({"stem", "humanities"}) ? 0.1 : 0.7;  // what FastChat does not know is 0.7 there too
}

Conversation conversation(const JudgeQuestion& question) {
  Conversation out;
  for (const std::string& turn : question.turns) out.push_back({{"user", turn}});
  return out;
}

Json answer_json(const JudgeTask& task, const JudgeQuestion& question, const Answer& answer, const std::string& model) {
  if (task.benchmark == JudgeBenchmark::kAlpacaEval) {
    Json out = {{"instruction", question.turns[0]}, {"output", answer.turns[0]}, {"generator", model}};
    if (!question.dataset.empty()) out["dataset"] = question.dataset;
    return out;
  }
  Json choice = {{"index", 0}, {"turns", answer.turns}};
  const std::string id = sha256_hex(cat(model, "\n", question.id.dump(), "\n", Json(answer.turns).dump())).substr(0, 22);
  return {{"question_id", question.id}, {"answer_id", id}, {"model_id", model}, {"choices", Json::array({choice})}, {"tstamp", answer.time}};
}

std::string answer_file(const JudgeTask& task, const std::vector<Json>& answers) {
  if (task.benchmark == JudgeBenchmark::kAlpacaEval) return Json(answers).dump(2) + "\n";
  std::string out;
  for (const Json& answer : answers) out += answer.dump() + "\n";
  return out;
}

std::string answer_path(const JudgeTask& task, const std::string& folder, const std::string& model) {
  const std::filesystem::path root(folder);
  if (task.benchmark == JudgeBenchmark::kAlpacaEval) return (root / model / "model_outputs.json").string();
  return (root / "mt_bench" / "model_answer" / (model + ".jsonl")).string();
}

}  // namespace retort::cli
