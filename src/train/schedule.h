// Learning-rate schedules as factors of the peak rate, and how far along its budget a stage is.
//
// Layer: train, torch-free. Plain values.
//
// WSD: linear 0 -> 1 over the warm-up, 1, then linear 1 -> min over the decay, reaching min at the end. Warm-up comes first in every
// kind; linear and cosine fall from its end to the end of the stage. Steps are sampled in their middle, so neither the first nor the last
// one is wasted on a rate of zero.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "train/recipe.h"

namespace retort::train {

// Where a step stands: index from 0, and the budget's share that is used, 0 to 1.
struct Position {
  double step = 0;
  double progress = 0;
  double total_steps = 1;  // an estimate when the budget is wall time
};

// Of kPlateau only the warm-up: what comes after it depends on the losses (plateau.h).
double schedule_factor(const ScheduleSpec& schedule, double peak, const Position& at);

// Counts what a stage has used of its budget.
class BudgetMeter {
 public:
  BudgetMeter() = default;
  BudgetMeter(const Budget& budget, int64_t tokens_per_step) : budget_(budget), tokens_per_step_(tokens_per_step) {}

  bool done() const;
  Position middle_of_next_step() const;
  double total_steps() const;        // planned: exact for tokens and steps, measured for minutes
  double seconds_left() const;
  void step(double seconds);         // one more step, which took that long
  void pass(double seconds) { seconds_ += seconds; }  // time that counts but made no step: checkpoints, a skipped batch

  int64_t steps() const { return steps_; }
  double seconds() const { return seconds_; }
  double seconds_per_step() const { return pace_; }
  void resume(int64_t steps, double seconds, double pace) { steps_ = steps, seconds_ = seconds, pace_ = pace; }

 private:
  int64_t counted_limit() const;     // steps that tokens and steps allow; 0: no such limit

  Budget budget_;
  int64_t tokens_per_step_ = 1;
  int64_t steps_ = 0;
  double seconds_ = 0, pace_ = 0;    // pace: running mean of seconds a step
};

// What a stage of so many steps in all would never come to: the end of its warm-up, where a peak rate stands that nobody would see, or its second
// teacher. Unset: it comes to everything, or its steps are not known yet (0).
struct NeverReached {
  const char* key;                   // of the stage: "schedule", "switch_teacher"
  std::string message;
};
std::optional<NeverReached> never_reached(const StageSpec& stage, int64_t steps);

}  // namespace retort::train
