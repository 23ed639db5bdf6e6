#include "eval/layer_match.h"

#include <gtest/gtest.h>

#include "tiny_model.h"

namespace retort {
namespace {

using testing_support::some_tokens;

// A student with the teacher's own weights wherever it has tensors of the same name.
ModelFiles with_own_weights(const ModelFiles& teacher, const std::vector<LayerPlan>& plan) {
  ModelFiles student = testing_support::tiny_files(plan, 2);
  auto store = std::make_shared<testing_support::RandomStore>(student.config, 2);
  for (const std::string& name : store->names()) {
    std::string own = name;
    if (const size_t at = own.find(".mixer."); at != std::string::npos) own.replace(at, 7, ".self_attn.");
    if (teacher.weights->has(own)) store->values(name) = *read_f32(*teacher.weights->tensor(own));
  }
  student.weights = store;
  return student;
}

TEST(LayerMatch, AWindowAsLongAsTheTextIsTheTeacher) {
  ThreadPool pool(2);
  const auto teacher = testing_support::tiny_files(testing_support::tiny_config().plan);
  const std::vector<LayerPlan> window(2, LayerPlan{{Part{"window", {0, 1}, {20, 0}, nlohmann::json::object()}}});
  const auto tokens = some_tokens(20, 5);
  for (const auto& plan : {teacher.config.plan, window}) {
    const auto matches = match_layers(teacher, with_own_weights(teacher, plan), tokens, pool);
    ASSERT_TRUE(matches.ok()) << matches.error().message;
    ASSERT_EQ(matches->size(), 2u);
    for (const LayerMatch& m : *matches) {
      EXPECT_LT(m.output_error, 1e-12);
      EXPECT_LT(m.matrix_distance, 1e-12);
      EXPECT_GT(m.matrix_norm, 1);  // 20 rows that sum to 1
    }
  }
  // One token more, and the last row differs.
  const auto matches = match_layers(teacher, with_own_weights(teacher, window), some_tokens(21, 5), pool);
  EXPECT_GT((*matches)[0].output_error, 1e-4);
  EXPECT_GT((*matches)[0].matrix_distance, 1e-4);
}

TEST(LayerMatch, EveryMixerHasANumber) {
  ThreadPool pool(2);
  const auto teacher = testing_support::tiny_files(testing_support::tiny_config().plan);
  for (const auto& [name, plan] : testing_support::plans_of_every_mixer()) {
    const auto matches = match_layers(teacher, testing_support::tiny_files(plan, 3), some_tokens(12, 5), pool);
    ASSERT_TRUE(matches.ok()) << name << ": " << matches.error().message;
    for (const LayerMatch& m : *matches) {
      EXPECT_TRUE(std::isfinite(m.output_error) && m.output_error > 1e-6) << name;
      EXPECT_TRUE(std::isfinite(m.matrix_distance) && m.matrix_distance > 1e-6) << name;
    }
  }
}

// Where nothing comes after the matrix but the output projection, the part's output is W_o M v.
TEST(LayerMatch, MatricesTimesValuesAreTheOutput) {
  for (const WindowConfig window : {WindowConfig{}, WindowConfig{5, 2}}) {
    auto config = testing_support::tiny_config();
    config.plan.assign(2, LayerPlan{{Part{"slots", {0, 1}, window, {{"slots", 16}}}}});
    const auto files = testing_support::tiny_files(config.plan);
    const Part& part = files.config.plan[0].parts[0];
    const PartShape shape = part_shape(files.config, part);
    std::vector<ReferenceOps::Weight> weights;
    for (const TensorSpec& spec : part_tensors(files.config, part)) {
      weights.emplace_back();
      if (!spec.present()) continue;
      const auto values = *read_f32(*files.weights->tensor(part_prefix(files.config, 0, 0) + spec.name));
      weights.back() = {spec.shape, {values.begin(), values.end()}};
    }
    Random random(1);
    ReferenceOps::Tensor x(17, shape.width);
    for (double& e : x.values) e = 2 * random.uniform() - 1;
    const auto fields = *parse_config<Slots>(part.config);
    ReferenceState state;
    ReferenceOps ops(shape);
    ops.begin({{&state, x.rows}});
    const auto want = part_mix<Slots>(ops, fields, shape, weights.data(), x);
    const auto v = ops.linear(x, weights[qkv::kV]);
    const auto matrices = mixing_matrices<Slots>(fields, shape, weights, x);
    const int64_t d = shape.head_dim;
    for (int64_t t = 0; t < x.rows; ++t) {
      for (int64_t i = 0; i < shape.heads * d; ++i) {
        double y = 0;
        for (int64_t s = 0; s <= t; ++s) y += matrices[size_t(i / d)][size_t(t)][size_t(s)] * v.row(s)[i / d / shape.group() * d + i % d];
        EXPECT_NEAR(y, want.row(t)[i], 1e-12) << window.size << " at " << t;
      }
    }
  }
}

TEST(LayerMatch, WhatCannotBeComparedIsAnError) {
  ThreadPool pool(1);
  const auto teacher = testing_support::tiny_files(testing_support::tiny_config().plan);
  const LayerPlan layer{{Part{"window", {0, 1}, {4, 0}, nlohmann::json::object()}}};
  const auto window = testing_support::tiny_files({layer, layer});
  EXPECT_NE(match_layers(window, teacher, some_tokens(4, 5), pool).error().message.find("not attention in every layer"), std::string::npos);
  auto wider = teacher;
  wider.config.heads = 12;
  EXPECT_NE(match_layers(teacher, wider, some_tokens(4, 5), pool).error().message.find("12 heads"), std::string::npos);
}

}  // namespace
}  // namespace retort
