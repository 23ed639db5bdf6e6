// One stage, step by step: batches in, gradients, optimiser, log, checkpoints.
//
// Layer: train, torch-free. Not thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "base/progress.h"
#include "base/threads.h"
#include "train/bad_step.h"
#include "train/checkpoint.h"
#include "train/data.h"
#include "train/optimizer.h"
#include "train/plateau.h"
#include "train/run_state.h"
#include "train/schedule.h"
#include "train/stage_data.h"

namespace retort::train {

// What all stages of a run share.
struct RunContext {
  const Recipe& written;                     // the recipe
  const Recipe& recipe;                      // as it runs, with a stage for each step (with_steps)
  const std::string& folder;
  const std::string& teacher;                // MODEL
  const std::string& how_to_resume;
  Backend& backend;
  const StageData& data;
  Encoders encode;
  ThreadPool& pool;
  MetricsLog* metrics;                       // rank 0's
  RunState& state;
  ProcessGroup& group;
};

AdamSettings adam_settings(const StageSpec& stage);

// Writes context.state and every tensor, and what belongs to a stage that has begun: its optimiser's, its memory.
Status save_run(RunContext& context, std::vector<StateTensor> of_stage);

class StageLoop {
 public:
  // `from` is the checkpoint to go on from, or null.
  static Result<std::unique_ptr<StageLoop>> create(RunContext& context, const StageSpec& stage, const Checkpoint* from);

  // To the end of the budget. Ctrl-C: a checkpoint, and an error that says how to go on.
  Status run();

 private:
  StageLoop(RunContext& context, const StageSpec& stage, const Budget& budget, std::unique_ptr<StageRunner> runner, std::vector<Parameter> parameters);
  std::vector<StateTensor> tensors();        // beside the student's: the optimiser's, the runner's memory
  Status resume(const Checkpoint& from);
  Status resume_watch(const Checkpoint& from);
  Status step();
  double rate_factor() const;                // of the next step
  void watch(double loss);                   // of a step that was taken
  Status switch_if_due(std::optional<Progress>& progress);
  Status sum_over_ranks(StepResult& result) const;
  Result<bool> gradients(MetricsRow& row);   // false: the loss was not finite
  Status saved_interruption();
  Status checkpoint();
  uint64_t seed_of(int micro) const;         // of the step that comes
  void remember_bad_step(const MetricsRow& row);
  Status too_many_skipped(const std::string& which) const;  // "5 steps in a row"
  void show(Progress& progress, const MetricsRow& row) const;

  RunContext& context_;
  const StageSpec& stage_;
  std::unique_ptr<StageRunner> runner_;
  AdamW optimizer_;
  std::unique_ptr<BatchStream> stream_;
  BudgetMeter meter_;
  Plateau rate_plateau_, teacher_plateau_;   // of a plateau schedule; of a teacher that is switched on one
  double reduced_ = 1;                       // what plateaus have left of the rate
  bool switch_due_ = false;
  MetricsRow last_;
  std::vector<Batch> batches_;               // of the step in hand
  int64_t tokens_of_step_ = 0;
  int skipped_in_a_row_ = 0;
  BadStep bad_step_;                         // the last one that was skipped
  double since_checkpoint_ = 0;
};

}  // namespace retort::train
