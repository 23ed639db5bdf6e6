// One stage, step by step: batches in, gradients, optimiser, log, checkpoints.
//
// Layer: train, torch-free. Not thread-safe.
#pragma once

#include <functional>
#include <memory>

#include "base/progress.h"
#include "base/threads.h"
#include "train/checkpoint.h"
#include "train/data.h"
#include "train/optimizer.h"
#include "train/run_state.h"
#include "train/schedule.h"

namespace retort::train {

// What all stages of a run share.
struct RunContext {
  const Recipe& recipe;
  const std::string& folder;
  const std::string& how_to_resume;
  Backend& backend;
  std::shared_ptr<const TrainingText> text;
  Encoders encode;
  ThreadPool& pool;
  MetricsLog* metrics;                       // rank 0's
  RunState& state;
  ProcessGroup& group;
};

// Writes context.state and every tensor, and what belongs to a stage that has begun: its optimiser's, its memory.
Status save_run(RunContext& context, std::vector<StateTensor> of_stage);

class StageLoop {
 public:
  // `from` is the checkpoint to go on from, or null.
  static Result<std::unique_ptr<StageLoop>> create(RunContext& context, const StageSpec& stage, const Checkpoint* from);

  // To the end of the budget. Ctrl-C: a checkpoint, and an error that says how to go on.
  Status run();

 private:
  StageLoop(RunContext& context, const StageSpec& stage, std::unique_ptr<StageRunner> runner, std::vector<Parameter> parameters);
  std::vector<StateTensor> tensors();        // beside the student's: the optimiser's, the runner's memory
  Status resume(const Checkpoint& from);
  Status step();
  Status sum_over_ranks(StepResult& result) const;
  Result<bool> anyone_interrupted() const;
  Result<bool> gradients(MetricsRow& row);   // false: the loss was not finite
  Status saved_interruption();
  Status checkpoint();
  Status too_many_skipped(const std::string& which) const;  // "5 steps in a row"
  void show(Progress& progress, const MetricsRow& row) const;

  RunContext& context_;
  const StageSpec& stage_;
  std::unique_ptr<StageRunner> runner_;
  AdamW optimizer_;
  std::unique_ptr<BatchStream> stream_;
  BudgetMeter meter_;
  MetricsRow last_;
  int64_t tokens_of_step_ = 0;
  int skipped_in_a_row_ = 0;
  double since_checkpoint_ = 0;
};

}  // namespace retort::train
