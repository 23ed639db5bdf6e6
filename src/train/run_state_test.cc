#include "train/run_state.h"

#include <gtest/gtest.h>

namespace retort::train {
namespace {

RunState some_state() {
  RunState s;
  s.recipe = {{"name", "a"}};
  s.teacher_hash = "1", s.data_hash = "2";
  s.plan = {{{Part{"slots", {1}, {8, 2}, {{"slots", 16}}}, Part{"attention", {0}, {}, nlohmann::json::object()}}}};
  s.kept = {"0.0"};
  s.stage = 1;
  s.current = {"kd", 3, 1, 96, 0.5, 0.25, 0.5, 2.0, 1.0};
  s.pace = 0.125;
  s.optimizer_steps = 2, s.run_step = 7, s.tokens = int64_t(1) << 40;
  s.metrics = {1000, 2000};
  s.done = {{"align", 4, 0, 128, 1.0, 0.5, 1.0, 3.0, 2.0}};
  return s;
}

TEST(RunState, GoesThroughJson) {
  const auto json = to_json(some_state());
  const auto again = run_state_from_json(json, "state.json");
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_EQ(to_json(*again), json);
  EXPECT_TRUE(again->plan == some_state().plan);
}

TEST(RunState, WhatOldRunsHadNotMayBeAbsent) {
  RunState state = some_state();
  state.second_teachers = {"", "abc"}, state.epoch_sizes = {0, 9}, state.current.switched_at = 3;
  auto json = to_json(state);
  EXPECT_EQ(to_json(*run_state_from_json(json, "state.json")), json);
  for (const char* key : {"second_teachers", "epoch_sizes"}) {
    auto wrong = json;
    wrong[key] = nlohmann::json::array({-1.5});
    EXPECT_FALSE(run_state_from_json(wrong, "state.json").ok()) << key;
    json.erase(key);
  }
  json["current"].erase("switched_at");
  const auto old = run_state_from_json(json, "state.json");
  ASSERT_TRUE(old.ok()) << old.error().message;
  EXPECT_EQ(old->current.switched_at, -1);
  EXPECT_TRUE(old->epoch_sizes.empty());
}

TEST(RunState, WhatIsMissingOrWrongIsNamed) {
  const auto json = to_json(some_state());
  for (const auto& [key, value] : json.items()) {
    if (key == "start" || key == "start_from" || key == "cursor" || key == "data" || key == "watch") continue;  // null in some_state(), and may be
    if (key == "second_teachers" || key == "epoch_sizes") continue;    // below
    auto without = json, wrong = json;
    without.erase(key);
    wrong[key] = nlohmann::json{{"x", true}};
    for (const auto& damaged : {without, wrong}) {
      if (key == "recipe" && damaged.contains(key)) continue;  // compared with the present recipe later
      if (key == "skipped_in_a_row" && !damaged.contains(key)) continue;  // states that were written without it are read
      const auto state = run_state_from_json(damaged, "state.json");
      ASSERT_FALSE(state.ok()) << key;
      EXPECT_EQ(state.error().message.rfind("state.json: ", 0), 0u) << state.error().message;
    }
  }
  auto deep = json;
  deep["plan"][0][1]["window"] = "wide";
  EXPECT_EQ(run_state_from_json(deep, "state.json").error().message,
            "state.json: plan[0]: key 'window' is \"wide\"; expected a whole number");
  deep = json;
  deep["format"] = 2;
  EXPECT_NE(run_state_from_json(deep, "state.json").error().message.find("this version"), std::string::npos);
  deep = json;
  deep["metrics_bytes"] = -1;
  EXPECT_FALSE(run_state_from_json(deep, "state.json").ok());
}

}  // namespace
}  // namespace retort::train
