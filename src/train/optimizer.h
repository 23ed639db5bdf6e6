// AdamW over plain memory: moments, decoupled decay, clipping and the weight average in one pass per tensor.
//
// Layer: train, torch-free. Not thread-safe; step() uses the pool. The result does not depend on the
// number of threads, nor on when the state was saved and loaded. Of several ranks each updates its pieces of the parameters; the norms are of
// all pieces.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "train/stage.h"

namespace retort::train {

struct AdamSettings {
  double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0, clip = 0, ema = 0;
};

struct GroupRates {
  double projection = 0, feature = 0, gate = 0, body = 0;
  double of(TrainGroup group) const;
};

// A named block of memory in a checkpoint.
struct StateTensor {
  std::string name;
  std::span<float> values;
};

class AdamW {
 public:
  AdamW(std::vector<Parameter> parameters, AdamSettings settings, ThreadPool& pool, ProcessGroup& group = one_process());

  // Norm of all gradients together; with settings.clip each clip group is scaled down to that norm. Gradients are zero afterwards.
  // When the norm is not finite nothing but the gradients changes.
  Result<double> step(const GroupRates& rates);
  // Forgets the gradients of a step that went wrong.
  void drop_gradients();

  // The averaged weights become the weights. Nothing without ema.
  void take_average();

  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }
  // "m/NAME", "v/NAME", "ema/NAME": read for a checkpoint, written by a resume.
  std::vector<StateTensor> state();
  int64_t parameter_count() const;

 private:
  struct Slot {
    std::vector<float> m, v, ema;
  };
  struct Chunk {
    size_t parameter;
    int64_t first, count;
  };
  Status measure(std::vector<double>& group_sums);

  std::vector<Parameter> parameters_;
  std::vector<Slot> slots_;
  AdamSettings settings_;
  ThreadPool& pool_;
  ProcessGroup& group_;
  std::vector<Chunk> chunks_;      // fixed pieces of work, whatever the number of threads
  std::vector<double> sums_;       // [chunks]
  int groups_ = 1;
  int64_t steps_ = 0;
};

}  // namespace retort::train
