// Layouts of steps against the released lists of "Mamba in the Llama", and what a recipe with steps runs.
#include "train/stepwise.h"

#include <gtest/gtest.h>

#include "train/student_plan.h"

namespace retort::train {
namespace {

ModelConfig teacher_of(int layers) {
  ModelConfig c;
  c.name = "t", c.family = "llama";
  c.layers = layers, c.width = 16, c.heads = 2, c.kv_heads = 2, c.head_dim = 8, c.mlp_width = 16, c.vocab_size = 256, c.context_length = 512;
  c.plan = attention_plan(c);
  return c;
}

Recipe recipe_of(const std::string& student, const std::string& stage = "steps: 96") {
  const auto recipe = parse_recipe("name: a\nstudent: {mixer: gla, window: 0, " + student + "}\nstages:\n- {name: align, loss: attn_out, lr: 1, " + stage +
                                   "}\n- {name: kd, loss: ce, lr: 1, steps: 5}\n", "a.yaml");
  EXPECT_TRUE(recipe.ok()) << recipe.error().message;
  return *recipe;
}

Result<std::vector<Step>> steps(const Recipe& recipe, int layers) {
  const auto pure = pure_student(teacher_of(layers), recipe.student);
  EXPECT_TRUE(pure.ok());
  return steps_of(recipe.student, *pure);
}

std::vector<Step> good(const std::string& student, int layers) {
  const auto out = steps(recipe_of(student), layers);
  EXPECT_TRUE(out.ok()) << out.error().message;
  return out.ok() ? *out : std::vector<Step>{};
}

std::string error(const std::string& student, int layers = 32) {
  const auto out = steps(recipe_of(student), layers);
  EXPECT_FALSE(out.ok()) << student;
  return out.ok() ? "" : out.error().message;
}

TEST(Stepwise, SharesHaveThePapersLayouts) {
  const auto s = good("keep: 0.125, stepwise: [0.75, 0.5, 0.25]", 32);
  ASSERT_EQ(s.size(), 4u);
  EXPECT_EQ(numbers_text(s[0].replaced), "0,4,8,12,16,20,24,28");
  EXPECT_EQ(numbers_text(s[1].attention), "1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31");
  EXPECT_EQ(numbers_text(s[2].attention), "3,7,11,15,19,23,27,31");
  EXPECT_EQ(numbers_text(s[3].attention), "7,15,23,31");
  for (size_t k = 0; k < s.size(); ++k) EXPECT_EQ(s[k].name, std::vector<std::string>({"0.75", "0.5", "0.25", "0.125"})[k]);
  EXPECT_EQ(keep_text(s[3].keep), "0.125");
  // The layouts are what keep lists of them give.
  for (const Step& step : s) {
    for (int l = 0; l < 32; ++l) {
      const bool attention = std::binary_search(step.attention.begin(), step.attention.end(), l);
      ASSERT_EQ(step.plan[size_t(l)].parts.size(), 1u);
      EXPECT_EQ(step.plan[size_t(l)].parts[0].mixer, attention ? "attention" : "gla") << step.name << " " << l;
    }
  }
  // 30 layers: the same rule, rounded down.
  const auto of30 = good("keep: 0.25, stepwise: 0.75", 30);
  ASSERT_EQ(of30.size(), 2u);
  EXPECT_EQ(numbers_text(of30[0].replaced), "0,4,8,12,16,20,24,28");
  EXPECT_EQ(numbers_text(of30[1].attention), "3,7,11,15,19,23,27");
}

TEST(Stepwise, OneByOneHasThePapersOrder) {
  const auto s = good("stepwise: one_by_one", 32);
  std::vector<int> order;
  for (const Step& step : s) {
    ASSERT_EQ(step.replaced.size(), 1u);
    order.push_back(step.replaced[0]);
    EXPECT_EQ(step.attention.size(), 32 - order.size());
  }
  EXPECT_EQ(order, (std::vector<int>{0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 1, 5, 9, 13, 17, 21, 25, 29, 3, 11, 19, 27, 7, 23, 15, 31}));
  EXPECT_EQ(s[17].name, "layer5");
  // To a layout with heads: whole layers wait, and the heads that stay stay.
  const auto heads = good("keep: [2, \"0.1\"], stepwise: one_by_one", 4);
  ASSERT_EQ(heads.size(), 3u);
  EXPECT_EQ(heads[0].plan[0].parts.size(), 2u);
  EXPECT_EQ(heads[0].plan[0].parts[1].kv_heads, (std::vector<int>{1}));
  EXPECT_EQ(numbers_text(heads[0].attention), "1-3");
  EXPECT_EQ(numbers_text(heads[2].attention), "2");
}

TEST(Stepwise, WhatLaterStepsKeepIsNeverReplaced) {
  const auto s = good("keep: [0, 5], stepwise: [0.75]", 8);
  ASSERT_EQ(s.size(), 2u);
  EXPECT_EQ(numbers_text(s[0].replaced), "4") << "0 and 4 go at 0.75, but 0 stays in the end";
  EXPECT_EQ(numbers_text(s[1].attention), "0,5");
}

TEST(Stepwise, TheFirstStageRunsOnceAStep) {
  const Recipe recipe = recipe_of("keep: 0.5, stepwise: [0.75]");
  const auto running = with_steps(recipe, *steps(recipe, 8));
  ASSERT_TRUE(running.ok());
  ASSERT_EQ(running->stages.size(), 3u);
  EXPECT_EQ(running->stages[0].name, "align[0.75]");
  EXPECT_EQ(running->stages[1].name, "align[0.5]");
  EXPECT_EQ(running->stages[2].name, "kd");
  for (int i = 0; i < 2; ++i) EXPECT_EQ(running->stages[size_t(i)].budget.steps, 96) << "the whole budget each";
  const Recipe shared = recipe_of("stepwise: one_by_one", "tokens: 100K, seq: 100, batch: 1, minutes: 4");
  const auto parts = with_steps(shared, *steps(shared, 7));
  ASSERT_TRUE(parts.ok());
  int64_t tokens = 0;
  for (int i = 0; i < 7; ++i) {
    const StageSpec& stage = parts->stages[size_t(i)];
    tokens += stage.budget.tokens;
    EXPECT_NEAR(double(stage.budget.tokens), 1e5 / 7, 100);
    EXPECT_NEAR(stage.budget.minutes, 4.0 / 7, 1e-9);
  }
  EXPECT_EQ(tokens, 100000);
  EXPECT_EQ(with_steps(recipe, {})->stages.size(), 2u);
}

TEST(Stepwise, WhatCannotBe) {
  EXPECT_NE(error("keep: [0], stepwise: [0.99]").find("the step that keeps 0.99 replaces nothing in 32 layers"), std::string::npos);
  EXPECT_NE(error("keep: 0.75, stepwise: [0.5]").find("the last step replaces nothing that those before it left; student.keep is 0.75"), std::string::npos);
  EXPECT_NE(error("keep: 1, stepwise: [0.5]").find("replaces nothing"), std::string::npos);
  const Recipe few = recipe_of("stepwise: one_by_one", "steps: 7");
  const auto short_of = with_steps(few, *steps(few, 8));
  ASSERT_FALSE(short_of.ok());
  EXPECT_EQ(short_of.error().message, "recipe: stage 'align' has 7 steps for 8 layers one by one; each needs at least one");
  const Recipe warm = recipe_of("stepwise: one_by_one", "steps: 16, schedule: {wsd: {warmup_steps: 3}}");
  const auto long_warm = with_steps(warm, *steps(warm, 8));
  ASSERT_FALSE(long_warm.ok());
  EXPECT_NE(long_warm.error().message.find("'warmup_steps' is 3; stage 'align' has 2 steps in all, its share for each layer one by one"), std::string::npos) << long_warm.error().message;
}

}  // namespace
}  // namespace retort::train
