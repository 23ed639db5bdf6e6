// How long a step takes here and how much memory it needs, found by taking one: for `retort distill --dry-run`.
//
// Layer: train, torch-free. Seconds of work.
#pragma once

#include <vector>

#include "train/run.h"
#include "train/stage_data.h"

namespace retort::train {

struct StageTime {
  double step_seconds = 0;       // of an optimiser step
  int64_t step_tokens = 0;       // without padding
};

struct ProbedRun {
  std::vector<StageTime> stages;
  int64_t peak_bytes = 0;        // resident memory of this process at most, until now
};

// Every stage takes steps on its own first batches: two of them, of which the second counts, or one where that takes more than ten seconds;
// of `accumulate` batches one is computed, and counts that many times. The student has small random numbers for its
// weights: a step takes its time whatever they are. Nothing is written. All ranks call it: seconds are rank 0's, memory is that of the rank that
// needs most.
Result<ProbedRun> probe_steps(const Recipe& recipe, Backend& backend, const ModelConfig& student, const StageData& data, const Encoders& encode,
                              int threads, ProcessGroup& group);

}  // namespace retort::train
