#include "eval/restored_attention.h"

#include <gtest/gtest.h>

#include "eval/divergence.h"
#include "eval/keep_ranking.h"
#include "tiny_model.h"

namespace retort {
namespace {

using testing_support::some_tokens;
using testing_support::tiny_config;
using testing_support::tiny_files;

ModelFiles with_store(ModelFiles files, std::function<void(testing_support::RandomStore&)> change, uint64_t seed) {
  auto store = std::make_shared<testing_support::RandomStore>(files.config, seed);
  change(*store);
  files.weights = store;
  return files;
}

// Of all but the mixers the teacher's tensors; MLPs add nothing, so that the state before layer 1 is the embedding plus layer 0's mixer.
ModelFiles student_of(const ModelFiles& teacher, const std::vector<LayerPlan>& plan) {
  return with_store(tiny_files(plan, 2), [&](testing_support::RandomStore& store) {
    for (const std::string& name : store.names()) {
      if (teacher.weights->has(name) && name.find("self_attn") == std::string::npos) store.values(name) = *read_f32(*teacher.weights->tensor(name));
    }
  }, 2);
}

ModelFiles some_teacher() {
  return with_store(tiny_files(tiny_config().plan), [](testing_support::RandomStore& store) {
    for (const std::string& name : store.names()) {
      if (name.find("down_proj") != std::string::npos) std::fill(store.values(name).begin(), store.values(name).end(), 0.0f);
    }
  }, 1);
}

struct Output {
  std::vector<float> hidden, logits;  // before layer 1; of all tokens
};
Output run(const ModelFiles& files, const std::vector<int>& tokens) {
  ThreadPool pool(1);
  const auto model = Model::load(files, WeightFormat::kF32, pool);
  EXPECT_TRUE(model.ok()) << (model.ok() ? "" : model.error().message);
  Engine engine(*model, pool);
  Output out;
  engine.watch_layers([&](int layer, const RuntimeOps::Tensor& hidden) {
    for (size_t t = 0; layer == 1 && t < tokens.size(); ++t) out.hidden.insert(out.hidden.end(), hidden.row(int64_t(t)), hidden.row(int64_t(t)) + hidden.columns);
  });
  Sequence sequence = (*model)->new_sequence();
  const BatchItem item{&sequence, tokens, WantLogits::kAll};
  EXPECT_TRUE(engine.forward({&item, 1}, [&](const LogitsRows& rows) { out.logits.insert(out.logits.end(), rows.data, rows.data + rows.count * 96); }).ok());
  return out;
}

TEST(RestoredAttention, WithAllOfItTheStudentIsTheTeacher) {
  const auto teacher = some_teacher();
  const auto tokens = some_tokens(14, 5);
  const auto expected = run(teacher, tokens).logits;
  for (const auto& [name, plan] : testing_support::plans_of_every_mixer()) {
    if (name.find("beside") != std::string::npos || name == "attention") continue;
    const auto student = student_of(teacher, plan);
    EXPECT_NE(run(student, tokens).logits, expected) << name;
    for (const bool heads : {false, true}) {
      const auto units = replaced_units(student.config, heads);
      EXPECT_EQ(units.size(), heads ? 4u : 2u);
      const auto restored = restore_attention(teacher, student, units);
      ASSERT_TRUE(restored.ok()) << name << ": " << restored.error().message;
      EXPECT_TRUE(check_weights(restored->config, *restored->weights).ok()) << name;
      EXPECT_EQ(run(*restored, tokens).logits, expected) << name;
    }
  }
}

// A layer's output is the sum of its heads': what is cut off on one side is what stays on the other. Not where a norm goes over all heads
// of a part, as HGRN2's does: two parts have two norms.
TEST(RestoredAttention, HeadsAddUp) {
  const auto teacher = some_teacher();
  const auto tokens = some_tokens(19, 5);
  const auto whole = run(teacher, tokens).hidden;
  for (const auto& [name, plan] : testing_support::plans_of_every_mixer()) {
    if (name.find("beside") != std::string::npos || name == "attention" || name.starts_with("hgrn2")) continue;
    const auto student = student_of(teacher, plan);
    const auto own = run(student, tokens).hidden;
    const auto first = restore_attention(teacher, student, {{0, 0}}), second = restore_attention(teacher, student, {{0, 1}});
    ASSERT_TRUE(first.ok() && second.ok()) << name;
    const auto a = run(*first, tokens).hidden, b = run(*second, tokens).hidden;
    double most = 0, apart = 0;
    for (size_t i = 0; i < own.size(); ++i) {
      most = std::max(most, std::abs(double(a[i]) + b[i] - own[i] - whole[i]));
      apart = std::max(apart, std::abs(double(a[i]) - own[i]));
    }
    EXPECT_LT(most, 2e-4) << name;
    EXPECT_GT(apart, 1e-3) << name << ": nothing was put back";
  }
}

TEST(RestoredAttention, WhatCannotBePutBackIsAnError) {
  const auto teacher = some_teacher();
  const auto student = student_of(teacher, std::vector<LayerPlan>{LayerPlan{{Part{"gla", {0}, {}, nlohmann::json::object()}, Part{"attention", {1}, {}, nlohmann::json::object()}}},
                                                                  LayerPlan{{Part{"gla", {0, 1}, {}, nlohmann::json::object()}}}});
  const auto message = [&](const std::vector<AttentionUnit>& units) {
    const auto made = restore_attention(teacher, student, units);
    return made.ok() ? "made" : made.error().message;
  };
  EXPECT_EQ(replaced_units(student.config, false), std::vector<AttentionUnit>{AttentionUnit{1}});
  EXPECT_EQ(replaced_units(student.config, true).size(), 3u);
  EXPECT_EQ(message({{0, 0}, {1, -1}}), "made");
  EXPECT_EQ(message({{0, 1}}), "layer 0, kv head 1 is attention already");
  EXPECT_EQ(message({{1, -1}, {1, 0}}), "layer 1, kv head 0 is named twice");
  EXPECT_NE(message({{2, -1}}).find("no 2 among 2 layers"), std::string::npos);
  EXPECT_NE(message({{1, 2}}).find("no 1.2 among"), std::string::npos);
  EXPECT_FALSE(restore_attention(student, student, {}).ok());
}

// Only one layer of the student is no copy of the teacher: putting that one back gains everything.
TEST(KeepRanking, TheLayerThatIsWrongIsTheFirst) {
  ThreadPool pool(2);
  const auto teacher = some_teacher();
  const std::vector<LayerPlan> windows(2, LayerPlan{{Part{"window", {0, 1}, {40, 0}, nlohmann::json::object()}}});
  for (const int wrong : {0, 1}) {
    const auto student = with_store(tiny_files(windows, 2), [&](testing_support::RandomStore& store) {
      for (const std::string& name : store.names()) {
        std::string own = name;
        if (const size_t at = own.find(".mixer."); at != std::string::npos) {
          if (own.find(cat("layers.", wrong)) != std::string::npos) continue;
          own.replace(at, 7, ".self_attn.");
        }
        store.values(name) = *read_f32(*teacher.weights->tensor(own));
      }
    }, 2);
    const auto tokens = some_tokens(24, 5);
    const auto matcher = LayerMatcher::make(teacher, tokens, pool);
    ASSERT_TRUE(matcher.ok());
    const auto error = [&](const ModelFiles& model, int layer) -> Result<double> {
      return matcher->output_error(model, layer);
    };
    for (const bool heads : {false, true}) {
      const auto ranking = rank_units(teacher, student, replaced_units(student.config, heads), [&](int layer) { return *error(student, layer); }, error);
      ASSERT_TRUE(ranking.ok()) << ranking.error().message;
      EXPECT_EQ((*ranking)[0].unit.layer, wrong);
      EXPECT_GT((*ranking)[0].gain, 0.01);
      EXPECT_NEAR(ranking->back().gain, 0, 1e-9);
    }
    // The same by the whole model's predictions.
    Engine reference(*Model::load(teacher, WeightFormat::kF32, pool), pool);
    DivergenceBase base(reference, tokens, int64_t(tokens.size()));
    const auto divergence = [&](const ModelFiles& model, int) -> Result<double> {
      Engine engine(*Model::load(model, WeightFormat::kF32, pool), pool);
      RETORT_TRY(const Divergence found, base.compare(engine));
      return found.kl_mean;
    };
    const double before = *divergence(student, 0);
    EXPECT_GT(before, 1e-4);
    const auto ranking = rank_units(teacher, student, replaced_units(student.config, false), [&](int) { return before; }, divergence);
    ASSERT_TRUE(ranking.ok()) << ranking.error().message;
    EXPECT_EQ((*ranking)[0].unit.layer, wrong);
    EXPECT_NEAR((*ranking)[0].gain, before, 1e-5 + 1e-2 * before) << "all of it: the rest is the teacher";
    EXPECT_NEAR((*ranking)[1].gain, 0, 1e-5 + 1e-2 * before);
  }
}

}  // namespace
}  // namespace retort
