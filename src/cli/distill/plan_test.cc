#include "cli/distill/plan.h"

#include <gtest/gtest.h>

#include "test_files.h"

namespace retort::cli {
namespace {

const std::string kGood = R"(name: both
runs:
- {name: align, recipe: align.yaml, minutes: 6, show: false, set: [save_init=true]}
- {name: pure, recipe: kd.yaml, start: align, init: align/student-init, minutes: 2}
- {name: control, recipe: kd.yaml, keep_of: pure}
evaluate: {windows: [64, 128], tokens: 2K, prompt: Once}
)";

std::string error_of(const std::string& from, const std::string& to) {
  std::string text = kGood;
  text.replace(text.find(from), from.size(), to);
  const auto plan = parse_plan(text, "folder/p.yaml");
  EXPECT_FALSE(plan.ok()) << to;
  return plan.ok() ? "" : plan.error().message;
}

TEST(Plan, Reads) {
  auto plan = parse_plan(kGood, "folder/p.yaml");
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  ASSERT_EQ(plan->runs.size(), 3u);
  EXPECT_EQ(plan->runs[0].recipe, "folder/align.yaml");
  EXPECT_FALSE(plan->runs[0].show);
  EXPECT_EQ(plan->runs[1].start, "align");
  EXPECT_EQ(plan->runs[2].keep_of, "pure");
  EXPECT_EQ(plan->evaluate.tokens, 2000);
  EXPECT_EQ(plan->evaluate.windows, (std::vector<int64_t>{64, 128}));
  ASSERT_TRUE(scale_plan(*plan, 4).ok());
  EXPECT_DOUBLE_EQ(plan->runs[0].minutes, 3);
  EXPECT_DOUBLE_EQ(plan->runs[1].minutes, 1);
  EXPECT_FALSE(scale_plan(*plan, 0).ok());
}

TEST(Plan, BadInputNamesItsLine) {
  EXPECT_NE(error_of("minutes: 6", "minute: 6").find("folder/p.yaml:3: run: unknown key 'minute'"), std::string::npos);
  EXPECT_NE(error_of("start: align", "start: alien").find("folder/p.yaml:4"), std::string::npos);
  EXPECT_NE(error_of("keep_of: pure", "keep_of: poor").find("folder/p.yaml:5: "), std::string::npos);
  EXPECT_NE(error_of("name: pure, recipe: kd.yaml, start", "name: align, recipe: kd.yaml, start").find("two runs"), std::string::npos);
  EXPECT_NE(error_of("prompt: Once", "weights: q3").find("q3"), std::string::npos);
  EXPECT_NE(error_of("prompt: Once", "activations: f16").find("there are: f32, bf16"), std::string::npos);
  EXPECT_NE(error_of("prompt: Once", "speed_weights: 4").find("speed_weights"), std::string::npos);
  EXPECT_NE(error_of("[64, 128]", "[64, many]").find("'many'"), std::string::npos);
  EXPECT_NE(error_of("recipe: kd.yaml, ", "").find("needs a 'recipe'"), std::string::npos);
  EXPECT_FALSE(parse_plan("runs: 3", "p.yaml").ok());
  EXPECT_FALSE(parse_plan("runs: [", "p.yaml").ok());
}

TEST(Plan, IsToldFromARecipe) {
  test::TempFolder folder;
  test::write_file(folder / "plan.yaml", kGood);
  test::write_file(folder / "recipe.yaml", "name: x\nstages: []\n");
  EXPECT_TRUE(is_plan(folder / "plan.yaml"));
  EXPECT_FALSE(is_plan(folder / "recipe.yaml"));
  EXPECT_FALSE(is_plan(folder / "nowhere.yaml"));
}

}  // namespace
}  // namespace retort::cli
