#include "train/schedule.h"

#include <gtest/gtest.h>

namespace retort::train {
namespace {

// At a step boundary s of N, as the papers write it.
double at(const ScheduleSpec& schedule, double peak, double s, double n) { return peak * schedule_factor(schedule, peak, {s, s / n, n}); }

TEST(Schedule, WsdAtItsCorners) {
  ScheduleSpec wsd{ScheduleKind::kWsd, 0.1, -1, 0.2, -1, 1e-5};
  EXPECT_DOUBLE_EQ(at(wsd, 1e-3, 0, 100), 0);
  EXPECT_DOUBLE_EQ(at(wsd, 1e-3, 5, 100), 0.5e-3);
  EXPECT_DOUBLE_EQ(at(wsd, 1e-3, 10, 100), 1e-3);
  EXPECT_DOUBLE_EQ(at(wsd, 1e-3, 80, 100), 1e-3);
  EXPECT_NEAR(at(wsd, 1e-3, 90, 100), (1e-3 + 1e-5) / 2, 1e-15);
  EXPECT_NEAR(at(wsd, 1e-3, 100, 100), 1e-5, 1e-15);
}

TEST(Schedule, StepsWinOverShares) {
  ScheduleSpec wsd{ScheduleKind::kWsd, 0.5, 4, 0.5, 10, 0};
  EXPECT_DOUBLE_EQ(at(wsd, 1, 2, 100), 0.5);
  EXPECT_DOUBLE_EQ(at(wsd, 1, 4, 100), 1);
  EXPECT_DOUBLE_EQ(at(wsd, 1, 90, 100), 1);
  EXPECT_NEAR(at(wsd, 1, 95, 100), 0.5, 1e-12);
}

TEST(Schedule, LinearAndCosineFallToTheirMinimum) {
  for (const auto kind : {ScheduleKind::kLinear, ScheduleKind::kCosine}) {
    const ScheduleSpec schedule{kind, 0.2, -1, 0, -1, 0.1};
    EXPECT_DOUBLE_EQ(at(schedule, 1, 20, 100), 1);
    EXPECT_NEAR(at(schedule, 1, 60, 100), 0.55, 1e-12);
    EXPECT_NEAR(at(schedule, 1, 100, 100), 0.1, 1e-12);
  }
  EXPECT_EQ(at({ScheduleKind::kConstant}, 1, 99, 100), 1);
}

TEST(Budget, TokensAndSteps) {
  BudgetMeter meter({1000, 50, 0}, 100);
  EXPECT_EQ(meter.total_steps(), 10);
  EXPECT_NEAR(meter.middle_of_next_step().progress, 0.05, 1e-12);
  for (int i = 0; i < 10; ++i) {
    EXPECT_FALSE(meter.done());
    meter.step(1);
  }
  EXPECT_TRUE(meter.done());
}

TEST(Budget, ZeroStepsIsDoneAtOnce) { EXPECT_TRUE(BudgetMeter({0, 0, 0}, 1).done()); }

// The decay of a clock budget finishes however the pace changes, and the rate never jumps by more than a step's share.
TEST(Budget, TheClockFinishesTheDecay) {
  const ScheduleSpec wsd{ScheduleKind::kWsd, 0, 2, 0.5, -1, 0};
  BudgetMeter meter({0, 0, 1.0}, 100);  // 60 seconds
  double last = 1, biggest_fall = 0;
  for (int i = 0; !meter.done(); ++i) {
    ASSERT_LT(i, 200);
    const double factor = schedule_factor(wsd, 1, meter.middle_of_next_step());
    if (i >= 2) biggest_fall = std::max(biggest_fall, last - factor);
    last = factor;
    meter.step(i < 20 ? 1.0 : i % 2 ? 2.0 : 0.7);  // another job arrives
  }
  EXPECT_LT(last, 0.06) << "one step from the end of the decay";
  EXPECT_LT(biggest_fall, 3.0 / 30) << "two seconds and a wrong guess of the pace, of 30 seconds of decay";
  EXPECT_NEAR(meter.seconds(), 60, 1.5);
}

}  // namespace
}  // namespace retort::train
