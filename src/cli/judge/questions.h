// What judges of chat models ask: the question files of MT-bench (FastChat) and AlpacaEval as they come, and answers as their judges
// read them.
//
// Layer: cli. Thread-safe: values and pure functions.
#pragma once

#include <string>
#include <vector>

#include "cli/answering/answering.h"
#include "eval/tasks/task.h"

namespace retort::cli {

enum class JudgeBenchmark { kMtBench, kAlpacaEval };
struct JudgeTask {
  JudgeBenchmark benchmark;
  const char* name;
  const char* summary;
  const char* file;            // below --data
  int64_t default_max_tokens;  // of an answer, as their own scripts have it
};
const std::vector<JudgeTask>& judge_tasks();
const JudgeTask* find_judge_task(const std::string& name);  // null: none

struct JudgeQuestion {
  harness::Json id;                // MT-bench's question_id; AlpacaEval's place in the list
  std::vector<std::string> turns;  // what the user says, one after the other
  std::string category;            // MT-bench's, which decides the temperature
  std::string dataset;             // AlpacaEval's, which its answers repeat
};

// question.jsonl: {"question_id", "category", "turns": [..]} a line. alpaca_eval.json: a list of {"instruction", "dataset", ...}.
Result<std::vector<JudgeQuestion>> read_questions(const JudgeTask& task, const std::string& content, const std::string& path);

// FastChat's temperatures: 0.7 for writing and roleplay, 0.1 for stem and humanities, 0 where there is one right answer.
double temperature_of(const JudgeTask& task, const JudgeQuestion& question);

// The question as it is asked.
Conversation conversation(const JudgeQuestion& question);

// One answer as the file has it. The same question, model and answer give the same answer_id.
harness::Json answer_json(const JudgeTask& task, const JudgeQuestion& question, const Answer& answer, const std::string& model);
// The whole file: a line each, or a list.
std::string answer_file(const JudgeTask& task, const std::vector<harness::Json>& answers);
// Where the benchmark's own scripts look for it: mt_bench/model_answer/MODEL.jsonl, MODEL/model_outputs.json.
std::string answer_path(const JudgeTask& task, const std::string& folder, const std::string& model);

}  // namespace retort::cli
