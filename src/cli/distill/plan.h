// A plan: several runs that build on one another, and how their students are measured beside the teacher. recipes/quickstart.yaml.
//
// Layer: cli. Plain values.
//
//   name: quickstart
//   runs:
//   - {name: align, recipe: align.yaml, minutes: 5, show: false, set: [save_init=true]}
//   - {name: pure, recipe: kd.yaml, start: align, init: align/student-init, minutes: 3}
//   - {for_each: [gla, retnet], name: $each-64, recipe: align.yaml, set: [student.mixer=$each]}      one run for each
//   evaluate: {windows: [512, 2048, 8000], tokens: 16K, ...}
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace retort::cli {

struct PlannedRun {
  std::string name;
  std::string recipe;              // a file, beside the plan
  std::string start;               // the run whose student this one starts from, or "run/student-init"; empty: the teacher
  std::string init;                // a folder below the plan's: the student before any training; empty: none is measured
  std::string keep_of;             // the run before it whose kept attention this one keeps too; empty: as `set` or the recipe says
  std::vector<std::string> set;    // as for --set
  double minutes = 0;              // 0: as the recipe says, whatever --minutes is
  bool show = true;                // a row of the table
};

// The run that `start` names.
inline std::string start_run(const PlannedRun& run) { return run.start.substr(0, run.start.find('/')); }
// The folder below the plan's that `start` names.
inline std::string start_folder(const PlannedRun& run) {
  return run.start.find('/') == std::string::npos ? run.start + "/student" : run.start;
}

struct EvaluationPlan {
  std::vector<int64_t> windows = {512, 2048, 8000};
  int64_t tokens = 16384;          // at windows[0], of the held-out text
  int64_t window_tokens = 8192;    // at the other windows, and of the other texts
  int64_t copy_passages = 8;       // of copy_length tokens, each repeated once
  int64_t copy_length = 192;
  std::vector<int64_t> contexts = {128, 2048, 8000};
  int64_t decode_tokens = 8;       // decoded in a turn; every model takes one at every context
  int64_t decode_turns = 12;       // their median counts
  std::string weights = "bf16";      // perplexities and samples: the same arithmetic for the teacher as for the students
  std::string activations = "f32";
  std::string speed_weights = "auto";
  std::string prompt = "The";
  int64_t sample_tokens = 64;
};

struct Plan {
  std::string path, name;
  std::vector<PlannedRun> runs;
  EvaluationPlan evaluate;
};

// Whether the file lists runs, so that it is a plan and no recipe. False for what cannot be read: the recipe's reader says why.
bool is_plan(const std::string& path);
Result<Plan> load_plan(const std::string& path);
Result<Plan> parse_plan(const std::string& text, const std::string& path);

// What --set says of a plan, KEY=VALUE: evaluate.KEY is the plan's own, all else is every run's. After scale_plan(): what is said is meant.
Status set_in_plan(Plan& plan, const std::vector<std::string>& changes);

// Training minutes become `minutes` in all; a plan of under ten minutes is also measured on less.
Status scale_plan(Plan& plan, double minutes);

}  // namespace retort::cli
