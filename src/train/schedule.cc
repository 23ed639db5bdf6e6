#include "train/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace retort::train {
namespace {

constexpr double kPaceMemory = 0.9;

// The share of the stage that an extent takes.
double share_of(double share, int64_t steps, const Position& at) {
  return steps >= 0 ? std::min(1.0, double(steps) / std::max(1.0, at.total_steps)) : share;
}

}  // namespace

double schedule_factor(const ScheduleSpec& schedule, double peak, const Position& at) {
  const double least = peak > 0 ? std::min(1.0, schedule.min_lr / peak) : 0;
  const double warmup = share_of(schedule.warmup, schedule.warmup_steps, at);
  const double p = std::clamp(at.progress, 0.0, 1.0);
  const double ramp = schedule.warmup_steps >= 0 ? (schedule.warmup_steps > 0 ? at.step / double(schedule.warmup_steps) : 1.0)
                                                 : (warmup > 0 ? p / warmup : 1.0);
  if (ramp < 1) return ramp;
  const double fall = warmup < 1 ? std::clamp((p - warmup) / (1 - warmup), 0.0, 1.0) : 0;
  switch (schedule.kind) {
    case ScheduleKind::kConstant:
    case ScheduleKind::kPlateau: return 1;
    case ScheduleKind::kLinear: return 1 + (least - 1) * fall;
    case ScheduleKind::kCosine: return least + (1 - least) * 0.5 * (1 + std::cos(std::numbers::pi * fall));
    case ScheduleKind::kWsd: {
      const double decay = share_of(schedule.decay, schedule.decay_steps, at);
      if (decay <= 0 || p <= 1 - decay) return 1;
      return 1 + (least - 1) * (p - (1 - decay)) / decay;
    }
  }
  return 1;
}

std::optional<NeverReached> never_reached(const StageSpec& stage, int64_t steps) {
  if (steps <= 0) return {};
  const std::string all = cat("; stage '", stage.name, "' has ", steps, steps == 1 ? " step" : " steps", " in all");
  if (stage.schedule.warmup_steps > steps) return NeverReached{"schedule", cat("'warmup_steps' is ", stage.schedule.warmup_steps, all)};
  const SwitchSpec& change = stage.switch_teacher;
  const bool never = !change.to.empty() && change.when == SwitchSpec::When::kStep && change.step >= steps;
  if (never) return NeverReached{"switch_teacher", cat("'switch_teacher' is due after ", change.step, " steps", all)};
  return {};
}

int64_t BudgetMeter::counted_limit() const {
  int64_t limit = budget_.steps;
  if (budget_.tokens > 0) {
    const int64_t by_tokens = std::max<int64_t>(1, budget_.tokens / tokens_per_step_);
    limit = limit > 0 ? std::min(limit, by_tokens) : by_tokens;
  }
  return limit;
}

bool BudgetMeter::done() const {
  const int64_t limit = counted_limit();
  if (limit > 0 && steps_ >= limit) return true;
  if (budget_.minutes > 0) return steps_ > 0 && seconds_ + 0.5 * pace_ > budget_.minutes * 60;
  return limit == 0;
}

double BudgetMeter::total_steps() const {
  double total = double(counted_limit());
  if (budget_.minutes > 0 && pace_ > 0) {
    const double by_clock = double(steps_) + std::max(0.0, std::round((budget_.minutes * 60 - seconds_) / pace_));
    total = total > 0 ? std::min(total, by_clock) : by_clock;
  }
  return std::max(total, double(steps_));
}

double BudgetMeter::seconds_left() const { return std::max(0.0, total_steps() - double(steps_)) * pace_; }

Position BudgetMeter::middle_of_next_step() const {
  Position at;
  at.step = double(steps_) + 0.5;
  at.total_steps = std::max(1.0, total_steps());
  if (const int64_t limit = counted_limit(); limit > 0) at.progress = at.step / double(limit);
  if (budget_.minutes > 0) at.progress = std::max(at.progress, (seconds_ + 0.5 * pace_) / (budget_.minutes * 60));
  at.progress = std::min(1.0, at.progress);
  return at;
}

void BudgetMeter::step(double seconds) {
  // The first step of a stage pays for warming caches, so the second replaces its pace.
  pace_ = steps_ < 2 ? seconds : kPaceMemory * pace_ + (1 - kPaceMemory) * seconds;
  ++steps_;
  seconds_ += seconds;
}

}  // namespace retort::train
