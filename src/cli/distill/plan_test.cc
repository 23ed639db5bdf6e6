#include "cli/distill/plan.h"

#include <gtest/gtest.h>

#include <set>

#include "mixers/list.h"
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

TEST(Plan, SetReachesTheRunsAndTheEvaluation) {
  auto plan = parse_plan(kGood, "folder/p.yaml");
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  ASSERT_TRUE(scale_plan(*plan, 1).ok());
  const auto status = set_in_plan(*plan, {"kd.lr=1", "evaluate.tokens=3K", "evaluate.windows=[32, 96]", "evaluate.weights=f32"});
  ASSERT_TRUE(status.ok()) << status.error().message;
  EXPECT_EQ(plan->evaluate.tokens, 3000) << "of --minutes 1 no share is taken";
  EXPECT_EQ(plan->evaluate.windows, (std::vector<int64_t>{32, 96}));
  EXPECT_EQ(plan->evaluate.weights, "f32");
  EXPECT_EQ(plan->evaluate.prompt, "Once") << "what is not set stays";
  EXPECT_EQ(plan->runs[0].set, (std::vector<std::string>{"save_init=true", "kd.lr=1"}));
  EXPECT_EQ(plan->runs[1].set, (std::vector<std::string>{"kd.lr=1"}));
  const auto error = [&](const std::string& change) {
    const auto refused = set_in_plan(*plan, {change});
    return refused.ok() ? "" : refused.error().message;
  };
  EXPECT_EQ(error("evaluate.window=[64]").rfind("--set evaluate.window=[64]: evaluate: unknown key 'window'; did you mean 'windows'?", 0), 0u)
      << error("evaluate.window=[64]");
  EXPECT_EQ(error("evaluate.tokens=few").rfind("--set evaluate.tokens=few: ", 0), 0u) << error("evaluate.tokens=few");
  EXPECT_NE(error("evaluate.tokens").find("expected evaluate.key=value"), std::string::npos) << error("evaluate.tokens");
  EXPECT_NE(error("evaluate.windows=[").find("not YAML"), std::string::npos) << error("evaluate.windows=[");
}

TEST(Plan, ForEachRepeatsARun) {
  const auto plan = parse_plan(R"(name: two
runs:
- {name: before, recipe: a.yaml}
- for_each: [gla, retnet]
  name: $each-64
  recipe: $each.yaml
  start: before
  init: $each-64/student-init
  set: [student.mixer=$each, "data.train=$each-$each"]
)", "folder/p.yaml");
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  ASSERT_EQ(plan->runs.size(), 3u);
  EXPECT_EQ(plan->runs[1].name, "gla-64");
  EXPECT_EQ(plan->runs[2].name, "retnet-64");
  EXPECT_EQ(plan->runs[2].recipe, "folder/retnet.yaml");
  EXPECT_EQ(plan->runs[2].start, "before");
  EXPECT_EQ(plan->runs[2].init, "retnet-64/student-init");
  EXPECT_EQ(plan->runs[2].set, (std::vector<std::string>{"student.mixer=retnet", "data.train=retnet-retnet"}));
  EXPECT_NE(error_of("name: align", "for_each: [], name: $each").find("folder/p.yaml:3: 'for_each' is an empty list"), std::string::npos);
  EXPECT_NE(error_of("name: align", "for_each: {a: b}, name: $each").find("for_each"), std::string::npos);
  EXPECT_NE(error_of("name: align", "for_each: [a, b], name: align").find("two runs are called 'align'"), std::string::npos);
  EXPECT_NE(error_of("name: align", "name: $each").find("'name' of letters"), std::string::npos);
}

// recipes/mixer-study.yaml: every mixer that has a recurrence, alone and joined, beside the window; all on the same text and minutes.
TEST(Plan, TheMixerStudyHasEveryMixer) {
  const auto plan = load_plan(test::source_root() / "recipes/mixer-study.yaml");
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  std::set<std::string> expected = {"window"}, found;
  for_each_mixer([&]<class Tag>(Tag) {
    using Mixer = typename Tag::type;
    if (Mixer::kRecurrent) expected.merge(std::set<std::string>{Mixer::kName, cat(Mixer::kName, "-64")});
  });
  for (const auto& run : plan->runs) {
    found.insert(run.name);
    EXPECT_EQ(run.recipe, plan->runs[0].recipe) << run.name;
    EXPECT_EQ(run.minutes, 0) << run.name << ": the recipe's own minutes, the same for all";
    EXPECT_EQ(run.init, run.name + "/student-init");
    EXPECT_TRUE(run.show && run.start.empty() && run.keep_of.empty()) << run.name;
    const bool joined = run.name == "window" || run.name.ends_with("-64");
    std::vector<std::string> set = {"student.mixer=" + run.name.substr(0, run.name.find("-64"))};
    if (!joined) set.insert(set.end(), {"student.window=0", "student.sinks=0"});
    EXPECT_EQ(run.set, set) << run.name;
  }
  EXPECT_EQ(found, expected);
  EXPECT_GT(plan->evaluate.copy_length, 64) << "the distance of recall: beyond the window";
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
