// Steps whose losses are not finite.
#include <csignal>
#include <filesystem>

#include <gtest/gtest.h>

#include "support/run_fixture.h"

namespace retort::train {
namespace {

TEST_F(RunTest, LossesThatAreNotFinite) {
  const auto result = go("a", false, {3, {}});
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::kInvalidInput);
  EXPECT_NE(result.error().message.find("not finite in 5 steps in a row"), std::string::npos);
  EXPECT_NE(result.error().message.find("--set align.lr="), std::string::npos);
}

TEST_F(RunTest, SkippedStepsAreCountedAndTheRunGoesOn) {
  const auto result = go("a", false, {3, {}, 4});
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_EQ((*result)["stages"][0]["skipped"], 4);
  EXPECT_EQ((*result)["stages"][1]["skipped"], 0);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "a/bad_step.json"));
}

TEST_F(RunTest, TheStepThatEndedARunCanBeLookedAt) {
  const auto result = go("a", false, {3, {}}, {{"align.max_skipped", "2", "--set"}});
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message.find("not finite in 2 steps in a row, the last one step 5; "), std::string::npos) << result.error().message;
  EXPECT_NE(result.error().message.find("a/bad_step.json has that step's data"), std::string::npos) << result.error().message;
  const auto step = nlohmann::json::parse(test::read_file(folder_ / "a/bad_step.json"));
  EXPECT_EQ(step["stage"], "align");
  EXPECT_EQ(step["step"], 5);
  EXPECT_EQ(step["run_step"], 5);
  EXPECT_EQ(step["skipped_in_a_row"], 2);
  EXPECT_EQ(step["loss"], "nan");
  ASSERT_EQ(step["batches"].size(), 1u);
  EXPECT_EQ(step["batches"][0]["tokens"].size(), 32u);
  EXPECT_EQ(step["batches"][0]["starts"][0], 0);
  // The same seed as the step's own: step 5 has run_step 4 before it.
  EXPECT_EQ(step["batches"][0]["seed"].get<uint64_t>(), mix_seed(4, 4, 7));
}

// Interrupted after three skipped steps: two more end the run.
TEST_F(RunTest, SkippedStepsInARowAreCountedOverAResume) {
  catch_interrupts();
  ASSERT_FALSE(go("a", false, {2, [](int64_t n) { if (n == 4) ::raise(SIGINT); }}).ok());
  clear_interrupt();
  const auto result = go("a", true, {0, {}});
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message.find("5 steps in a row, the last one step 7;"), std::string::npos) << result.error().message;
}

// Too few steps for that many in a row: a stage that made no step has no loss to report and no student to go on with.
TEST_F(RunTest, AStageThatSkippedEveryStepIsAnError) {
  for (const auto& [steps, said] : {std::pair{"1", "not finite in its only step"}, std::pair{"3", "not finite in any of its 3 steps"}}) {
    const auto result = go(cat("a", steps), false, {0, {}}, {{"align.steps", steps, "--set"}, {"align.schedule", "constant", "--set"}});
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, ErrorCode::kInvalidInput);
    EXPECT_NE(result.error().message.find(said), std::string::npos) << result.error().message;
    EXPECT_FALSE(std::filesystem::exists(folder_ / cat("a", steps, "/student")));
  }
  EXPECT_TRUE(go("b", false, {24, {}}, {{"align.steps", "20", "--set"}, {"kd.steps", "3", "--set"}}).ok()) << "the last steps only";
}

}  // namespace
}  // namespace retort::train
