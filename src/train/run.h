// One run: a recipe carried out into a folder, from the teacher to the written student; interrupted at any point, it goes on.
//
// Layer: train, torch-free (losses and gradients come through stage.h). Not thread-safe.
//
//   RUN/recipe.yaml, recipe.json   the recipe as resolved, flags applied
//   RUN/held_out.jsonl             the documents that were not trained on
//   RUN/metrics.jsonl, events.*    every step (metrics.h)
//   RUN/checkpoints/               until the run is finished
//   RUN/matrices.json              what a few heads look at, beside the teacher's (head_matrices.h)
//   RUN/bad_step.json              the step that ended the run, when its loss was not finite (bad_step.h)
//   RUN/student-init/              the student before training, when the recipe says save_init
//   RUN/student/                   the result, a model folder
//   RUN/train.json                 written last: tokens, seconds, stages, kept attention. It marks a finished run
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "train/data.h"
#include "train/recipe.h"
#include "train/stage.h"

namespace retort::train {

struct RunOptions {
  std::string teacher;                 // MODEL
  std::string out;                     // RUN
  bool resume = false;                 // go on where a run in RUN stopped; it is an error when there is none
  bool overwrite = false;              // a run in RUN is removed first
  int threads = 0;
  std::string how_to_resume;           // the command line, for the message after ctrl-C
  ProcessGroup* group = nullptr;       // that trains together; null: one process. RUN is rank 0's, and so is the returned document
};

// What a run is made of; the defaults are the real thing, tests put their own here.
struct RunParts {
  std::function<Result<std::unique_ptr<Backend>>(const Recipe&, const BackendOptions&)> open_backend;
  // The tokenizer of the teacher, and its chat template.
  std::function<Result<Encoders>(const std::string& teacher)> open_encoders;
};

Result<Encoders> open_encoders(const std::string& teacher);

// Returns what train.json holds.
Result<nlohmann::ordered_json> run_recipe(const Recipe& recipe, const RunOptions& options, const RunParts& parts);

// Whether RUN may be written to, by the user's wishes.
Status check_run_folder(const RunOptions& options);

// What would run: stages, what trains, data files, disk; and, where the recipe has data, time and memory by steps that are taken for it
// (step_probe.h). Refuses what run_recipe() would refuse before its first step. Writes nothing; without `out` the folder is not looked at.
Result<nlohmann::ordered_json> describe_run(const Recipe& recipe, const RunOptions& options, const RunParts& parts);
std::string description_text(const nlohmann::ordered_json& description);

}  // namespace retort::train
