// Results in lm-evaluation-harness's JSON schema (0.4.13), and its table: what leaderboards and comparison scripts read.
//
// Layer: eval. Thread-safe: pure functions.
#pragma once

#include <span>
#include <string>

#include "eval/tasks/evaluation.h"

namespace retort::harness {

// What the schema wants to know about the run.
struct RunFacts {
  std::string model;       // as given
  std::string model_arguments;
  std::string add_bos;     // auto, yes or no
  std::string device;
  double limit = 0;
  int64_t batch_rows = 0, max_length = 0;
  double started = 0;      // seconds since 1970
  double seconds = 0;
};

Json results_json(std::span<const TaskRun> runs, const RunFacts& facts, const Tokenizer& tokenizer);
// A line of samples_<task>_<date>.jsonl.
Json sample_json(const TaskRun& run, size_t document);
// A Markdown table of results_json()["results"], or of its ["groups"].
std::string results_table(const Json& results, const std::string& column);
// A model's name as a folder's.
std::string sanitized(const std::string& model);

}  // namespace retort::harness
