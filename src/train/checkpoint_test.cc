#include "train/checkpoint.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "test_files.h"

namespace retort::train {
namespace {

std::string error_of_newest(const std::string& run) {
  const auto found = newest_checkpoint(run);
  EXPECT_FALSE(found.ok());
  return found.ok() ? "" : found.error().message;
}

TEST(Checkpoint, ADamagedOneSaysHowToGoOn) {
  test::TempFolder folder;
  const std::string run = folder / "run", newest = run + "/checkpoints/step-2";
  std::vector<float> values{1, 2, 3};
  for (const int64_t step : {1, 2}) ASSERT_TRUE(save_checkpoint(run, step, {{"step", step}}, {{"w", values}}).ok());
  ASSERT_EQ((**newest_checkpoint(run)).state["step"], 2);

  const auto whole = test::read_file(newest + "/tensors.safetensors");
  test::write_file(newest + "/tensors.safetensors", whole.substr(0, whole.size() - 4));
  EXPECT_NE(error_of_newest(run).find("remove " + newest + " to go on from the checkpoint before it"), std::string::npos);
  test::write_file(newest + "/tensors.safetensors", whole);
  test::write_file(newest + "/state.json", "[");
  EXPECT_NE(error_of_newest(run).find("state.json: not a JSON object; remove " + newest), std::string::npos);

  std::filesystem::remove_all(newest);
  const auto before = newest_checkpoint(run);
  ASSERT_TRUE(before.ok() && before->has_value());
  EXPECT_EQ((**before).state["step"], 1);
  std::vector<float> longer(4);
  const auto status = (**before).load({{"w", longer}});
  ASSERT_FALSE(status.ok());
  EXPECT_NE((**before).damaged(status.error()).message.find("step-1 and start without --resume"), std::string::npos);
}

}  // namespace
}  // namespace retort::train
