// Carries out a plan: its runs as child processes, then every model measured, then results.json. Whatever is there already is reused,
// so that an interrupted plan goes on where it was.
//
// Layer: cli. Not thread-safe.
//
//   OUT/<run>/               one folder a run (retort-train)
//   OUT/evaluation/*.txt     the texts measured on; `retort perplexity MODEL --text` gives the same numbers
//   OUT/evaluation/*.json    one model's measurements
//   OUT/metrics.jsonl        all runs' steps, stages named run/stage
//   OUT/results.json         written last
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "cli/distill/measure.h"

namespace retort::cli {

struct PlanOptions {
  std::string teacher, out;
  std::vector<std::string> data;
  std::vector<std::pair<std::string, std::string>> eval_data;  // name, file
  bool overwrite = false, resume = false;  // resume: there must be something to go on with
  std::string how_to_resume;
};

// Returns what results.json holds.
Result<nlohmann::ordered_json> carry_out(const Plan& plan, const PlanOptions& options, const Context& context);

// What would be started: the plan as results.json has it, and each run's "command".
nlohmann::ordered_json describe_plan(const Plan& plan, const PlanOptions& options, const Context& context);

}  // namespace retort::cli
