// retort eval --tasks mt_bench,alpaca_eval: files of answers that a judge then reads. What they are worth is not said here.
//
// Layer: cli. Not thread-safe.
#pragma once

#include "cli/judge/questions.h"
#include "cli/open_model.h"

namespace retort::cli {

struct JudgeOptions {
  std::string data, out;
  std::string model_id;          // what the files call the model; empty: its short name
  int64_t max_tokens = 0;        // of an answer; 0: as the benchmark's own scripts
  int parallel = 8;
  double limit = 0;              // the first questions only; below 1 a share of them; 0: all
  std::optional<double> temperature;  // instead of the benchmark's
};

void add_judge_flags(CLI::App& app, JudgeOptions& options);

// Those of the names that are tasks for a judge. Answers are not scores: they go to files of their own, and asking for both is an error.
Result<std::vector<JudgeTask>> judge_tasks_among(const std::vector<std::string>& names);

// Writes the answers, and says where: with `--json` an entry a task, how many answers, how many were there before, tokens.
Status run_judge_tasks(const std::vector<JudgeTask>& tasks, const ModelFlags& model, const JudgeOptions& options, const Context& context);

}  // namespace retort::cli
