// Layer-wise stages on the real backend and optimiser: what a step may change, and that it learns.
#include <gtest/gtest.h>

#include "mixers/list.h"
#include "support/tiny_model.h"
#include "test_files.h"
#include "train/optimizer.h"
#include "train/reach.h"
#include "train/student_plan.h"

namespace retort::train {
namespace {

constexpr int kLayerSeq = 40;

Batch some_rows(int rows, int seq) {
  Batch batch{rows, seq, {}, {}};
  for (int r = 0; r < rows; ++r) {
    batch.starts.push_back(r * seq);
    if (r % 2) batch.starts.push_back(r * seq + seq / 3);
  }
  for (int i = 0; i < rows * seq; ++i) batch.tokens.push_back((i * 37 + i / 7) % 256);
  return batch;
}

class LayerStageTest : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(retort::test::write_tiny_model(folder_ / "teacher").ok()); }

  // A backend with a student of one stage.
  void open(const std::string& student, const std::string& stage) {
    auto parsed = parse_recipe(cat("name: a\nstudent: ", student, "\ndata: {calibration_tokens: 512}\nstages:\n- {name: x, steps: 9, lr: 0.01, weight_decay: 0.1, ",
                                   stage, "}\n"), "a.yaml");
    ASSERT_TRUE(parsed.ok()) << parsed.error().message;
    recipe_ = *parsed;
    auto backend = open_backend(recipe_, {folder_ / "teacher", 2});
    ASSERT_TRUE(backend.ok()) << backend.error().message;
    backend_ = std::move(*backend);
    const auto report = backend_->start(recipe_.student, [](int rows, int seq) -> Result<Batch> { return some_rows(rows, seq); }, 3);
    ASSERT_TRUE(report.ok()) << report.error().message;
    student_ = backend_->teacher();
    student_.plan = report->plan;
    ASSERT_TRUE(validate_plan(student_).ok());
  }
  std::map<std::string, std::vector<float>> snapshot() {
    std::map<std::string, std::vector<float>> out;
    for (const Parameter& tensor : backend_->tensors()) out[tensor.name] = {tensor.value.begin(), tensor.value.end()};
    return out;
  }
  // Losses of `steps` steps on one batch.
  std::vector<double> train(int steps) {
    const StageSpec& stage = recipe_.stages[0];
    auto runner = backend_->make_stage(stage);
    EXPECT_TRUE(runner.ok()) << runner.error().message;
    if (!runner.ok()) return {};
    AdamW optimizer((*runner)->parameters(), {0.9, 0.95, 1e-8, stage.weight_decay, 0, 0}, pool_);
    std::vector<double> losses;
    for (int i = 0; i < steps; ++i) {
      const auto result = (*runner)->step(some_rows(2, kLayerSeq), {});
      EXPECT_TRUE(result.ok()) << result.error().message;
      if (!result.ok()) return losses;
      losses.push_back(result->loss);
      EXPECT_TRUE(optimizer.step({stage.lr, stage.lr, stage.lr, stage.lr}).ok());
    }
    return losses;
  }
  // After a step with decay, what the stage does not train or its losses do not reach has its bits.
  void expect_only_reached_moves() {
    const auto before = snapshot();
    train(1);
    const auto after = snapshot();
    const Reached within = reached(recipe_.stages[0], student_);
    std::map<std::string, TrainGroup> groups;
    for (const TensorSpec& spec : model_tensors(student_)) groups[spec.name] = spec.group;
    for (const auto& [name, values] : before) {
      SCOPED_TRACE(name);
      std::vector<bool> may(values.size());
      const auto found = within.find(name);
      if (found != within.end() && trains(recipe_.stages[0], name, groups.at(name))) {
        for (const ElementRange& range : found->second) {
          bool moved = false;
          for (int64_t i = range.first; i < range.first + range.count; ++i) {
            may[size_t(i)] = true;
            moved = moved || after.at(name)[size_t(i)] != values[size_t(i)];
          }
          moved_ += moved;
        }
      }
      for (size_t i = 0; i < values.size(); ++i) {
        if (may[i]) continue;
        ASSERT_EQ(std::memcmp(&after.at(name)[i], &values[i], sizeof(float)), 0) << i;
      }
    }
  }

  retort::test::TempFolder folder_;
  Recipe recipe_;
  std::unique_ptr<Backend> backend_;
  ModelConfig student_;
  ThreadPool pool_{2};
  int moved_ = 0;   // ranges that a step moved
};

TEST_F(LayerStageTest, AStepOnMatricesLeavesTheRestAlone) {
  for_each_mixer([&](auto tag) {
    using Mixer = typename decltype(tag)::type;
    for (const int window : {0, 6}) {
      if ((Mixer::kNeedsWindow && !window) || !(Mixer::kRecurrent || Mixer::kNeedsWindow)) continue;
      Part part;
      part.mixer = Mixer::kName;
      if (!mixes_by_matrix(part)) continue;
      SCOPED_TRACE(cat(Mixer::kName, " window ", window));
      moved_ = 0;
      open(cat("{mixer: ", Mixer::kName, ", window: ", window, ", sinks: ", window ? 2 : 0, "}"), "loss: matrix, train: [mixers]");
      expect_only_reached_moves();
      EXPECT_GE(moved_, 2 * 3) << "queries and keys of every layer";
    }
  });
}

TEST_F(LayerStageTest, OtherStagesLeaveTheRestAlone) {
  open("{mixer: hedgehog, window: 6}", "loss: {attn_out: {at: heads, form: mse, weight: 1000}}, train: [mixers]");
  expect_only_reached_moves();
  open("{mixer: hedgehog, window: 6, config: {joint: 0}}", "loss: {attn_xent: 1, attn_out: {at: heads, form: mse}}, train: [features]");
  const auto before = snapshot();
  train(1);
  for (const auto& [name, values] : snapshot()) {
    EXPECT_EQ(values != before.at(name), name.find(".feature_") != std::string::npos) << name;
  }
  open("{mixer: gla, window: 0, layers: [{layers: 1, mixer: attention}]}", "loss: {hidden: {gap: 3}}, train: [mixers, mlp]");
  expect_only_reached_moves();
}

TEST_F(LayerStageTest, EveryLossFalls) {
  for (const char* loss : {"{matrix: {form: frobenius}}", "{matrix: {form: mse, weight: 1000}}", "attn_xent", "{attn_out: {at: heads, form: mse, weight: 1000}}",
                           "{hidden: {gap: 3}}", "{hidden: 1, matrix: 0.5, attn_xent: 0.1, attn_out: 1}"}) {
    SCOPED_TRACE(loss);
    open("{mixer: hedgehog, window: 6, sinks: 1}", cat("loss: ", loss));
    const auto losses = train(12);
    ASSERT_EQ(losses.size(), 12u);
    EXPECT_LT(losses.back(), 0.97 * losses.front());
  }
}

TEST_F(LayerStageTest, LossesByLayerHaveTheMeansOfTheParts) {
  open("{mixer: hedgehog, window: 6, layers: [{layers: 1, mixer: attention}]}", "loss: {hidden: {gap: 3}, matrix: 0.5, attn_out: 1}, train: [mixers]");
  auto runner = backend_->make_stage(recipe_.stages[0]);
  ASSERT_TRUE(runner.ok());
  ASSERT_FALSE((*runner)->parameters().empty());
  const auto result = (*runner)->step(some_rows(2, kLayerSeq), {});
  ASSERT_TRUE(result.ok()) << result.error().message;
  ASSERT_EQ(result->layers.size(), result->parts.size());
  for (size_t i = 0; i < result->parts.size(); ++i) {
    EXPECT_EQ(result->layers[i].name, result->parts[i].name);
    ASSERT_EQ(result->layers[i].values.size(), 3u);
    double sum = 0;
    int count = 0;
    for (double value : result->layers[i].values) {
      if (!std::isnan(value)) sum += value, ++count;
    }
    EXPECT_EQ(count, result->layers[i].name == "hidden" ? 1 : 2) << result->layers[i].name;
    EXPECT_NEAR(sum / count, result->parts[i].value, 1e-12);
  }
}

TEST_F(LayerStageTest, PicturesOfHeads) {
  // A window that holds the whole text is the teacher's attention.
  open("{mixer: window, window: 512, sinks: 0}", "loss: attn_out");
  auto heads = backend_->head_matrices(some_rows(1, 256));
  ASSERT_TRUE(heads.ok()) << heads.error().message;
  ASSERT_EQ(heads->size(), 6u) << "two of each of three layers";
  for (const HeadMatrices& h : *heads) {
    EXPECT_LT(h.distance, 0.03);
    ASSERT_EQ(h.teacher.size, 64);
    for (int i = 0; i < 64; ++i) {
      double sum = 0;
      for (int j = 0; j < 64; ++j) sum += h.teacher.cells[size_t(64 * i + j)];
      EXPECT_NEAR(sum, 1, 0.02);
      for (int j = i + 1; j < 64; ++j) EXPECT_EQ(h.student.cells[size_t(64 * i + j)], 0);
    }
  }
  EXPECT_NE((*heads)[0].head, (*heads)[1].head);
  open("{mixer: gla, window: 0, layers: [{layers: 0, mixer: attention}, {layers: 2, heads: 1, mixer: mamba, window: 0}]}", "loss: attn_out");
  heads = backend_->head_matrices(some_rows(1, 100));
  ASSERT_TRUE(heads.ok()) << heads.error().message;
  ASSERT_EQ(heads->size(), 4u) << "layer 0 is the teacher's";
  EXPECT_EQ((*heads)[0].layer, 1);
  EXPECT_GT((*heads)[0].distance, 0.03);
  EXPECT_EQ((*heads)[0].student.size, 50);
  EXPECT_EQ((*heads)[3].mixer, "mamba");
  EXPECT_EQ((*heads)[3].head, 3);
  EXPECT_NE((*heads)[3].absent.find("no mixing matrix"), std::string::npos);
}

}  // namespace
}  // namespace retort::train
