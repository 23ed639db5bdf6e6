#include "train/student_plan.h"

#include <gtest/gtest.h>

#include "support/tiny_model.h"

namespace retort::train {
namespace {

Status plan_of(const std::string& student, int64_t context) {
  ModelConfig teacher = test::tiny_config();
  teacher.context_length = int(context);
  const auto recipe = parse_recipe(cat("name: t\nstudent: ", student, "\ndata: {train: [a.txt]}\nstages:\n- {name: a, loss: {attn_out: 1}, steps: 1, lr: 1e-3}\n"), "t.yaml");
  if (!recipe.ok()) return recipe.error();
  const auto pure = pure_student(teacher, recipe->student);
  return pure.ok() ? Status() : Status(pure.error());
}

TEST(StudentPlan, AWindowBeyondTheContextIsNamedByItsKey) {
  EXPECT_TRUE(plan_of("{mixer: gla, window: 60, sinks: 4}", 64).ok());
  const Status whole = plan_of("{mixer: gla, window: 61, sinks: 4}", 64);
  ASSERT_FALSE(whole.ok());
  EXPECT_NE(whole.error().message.find("student.window is 61 with 4 sinks, longer than the model's context of 64"), std::string::npos) << whole.error().message;
  const Status layer = plan_of("{mixer: gla, window: 8, sinks: 4, layers: [{layers: 0, window: 100}]}", 64);
  ASSERT_FALSE(layer.ok());
  EXPECT_NE(layer.error().message.find("student.layers[0].window is 100"), std::string::npos) << layer.error().message;
  EXPECT_TRUE(plan_of("{mixer: attention, window: 100}", 64).ok()) << "attention has no window";
}

}  // namespace
}  // namespace retort::train
