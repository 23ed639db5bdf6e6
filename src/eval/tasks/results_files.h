// Results as the files that lm-evaluation-harness writes with --output_path and --log_samples.
//
// Layer: eval. Thread-safe: pure functions.
#pragma once

#include <span>
#include <string>

#include "eval/tasks/evaluation.h"

namespace retort::harness {

// FOLDER/MODEL/results_DATE.json of results_json(), and with `samples` samples_TASK_DATE.jsonl beside it.
Status write_results(const std::string& folder, const Json& results, std::span<const TaskRun> runs, bool samples);

}  // namespace retort::harness
