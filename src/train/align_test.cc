// What layer-wise stages give their tensors, against central differences of their losses in f64.
#include <gtest/gtest.h>

#include "support/tiny_model.h"
#include "test_files.h"
#include "train/stages.h"

namespace retort::train {
namespace {

constexpr int kSeq = 24;

class AlignTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(retort::test::write_tiny_model(folder_ / "teacher").ok());
    const auto files = open_model(folder_ / "teacher");
    ASSERT_TRUE(files.ok()) << files.error().message;
    auto teacher = load_model(*files, Numeric::kExact, at::kDouble);
    ASSERT_TRUE(teacher.ok()) << teacher.error().message;
    teacher_ = student_ = std::move(*teacher);
    torch::manual_seed(3);
    for (LayerPlan& layer : student_.config.plan) layer.parts[0].mixer = "gla", layer.parts[0].config = nlohmann::json::object();
    ASSERT_TRUE(validate_plan(student_.config).ok());
    student_.layers = empty_parts(student_.config);
    for (auto& parts : student_.layers) {
      for (size_t i = 0; i < parts[0].table.size(); ++i) {
        const TensorSpec& spec = parts[0].table[i];
        if (spec.present()) parts[0].values[i] = at::randn(spec.shape, at::kDouble) / std::sqrt(double(spec.shape.back()));
      }
    }
    for (auto& layer : student_.body.layers) {
      for (at::Tensor* own : {&layer.input_norm, &layer.post_norm, &layer.gate_up}) *own = *own * (1 + 0.2 * at::randn_like(*own));
    }
    batch_.rows = 2, batch_.seq = kSeq, batch_.starts = {0, kSeq, kSeq + 7};
    for (int i = 0; i < 2 * kSeq; ++i) batch_.tokens.push_back((i * 37 + i / 7) % 256);
  }

  double loss_of(const StageSpec& stage, Leaf& leaf) {
    const auto runner = make_align_stage(stage, {teacher_, student_, pool_, {&leaf}});
    const auto result = runner->step(batch_, {});
    EXPECT_TRUE(result.ok()) << result.error().message;
    return result.ok() ? result->loss : 0;
  }

  // The derivative along a random direction, both ways.
  void expect_gradient(const StageSpec& stage, at::Tensor& value) {
    Leaf leaf{value.requires_grad_(), at::zeros_like(value), 1};
    loss_of(stage, leaf);
    const at::Tensor kept = value.detach().clone(), gradient = leaf.gradient.clone(), direction = at::randn_like(kept);
    constexpr double kStep = 1e-5;
    const auto moved = [&](double by) {
      value.detach().copy_(kept + by * direction);
      const double loss = loss_of(stage, leaf);
      value.detach().copy_(kept);
      return loss;
    };
    const double measured = (moved(kStep) - moved(-kStep)) / (2 * kStep), given = (gradient * direction).sum().item<double>();
    value.requires_grad_(false);
    EXPECT_GT(std::fabs(measured), 1e-6) << "the loss does not depend on it";
    EXPECT_NEAR(given, measured, 1e-5 * std::fabs(measured));
  }

  retort::test::TempFolder folder_;
  TorchModel teacher_, student_;
  ThreadPool pool_{2};
  Batch batch_;
};

TEST_F(AlignTest, GradientsAreThoseOfTheLosses) {
  StageSpec stage;
  auto& layer = student_.body.layers[1];
  for (const LossForm form : {LossForm::kMse, LossForm::kL2, LossForm::kRelative}) {
    for (const LossKind kind : {LossKind::kAttnOut, LossKind::kHidden}) {
      SCOPED_TRACE(cat(loss_name(kind), " form ", int(form)));
      stage.losses = {{kind, form, 0.7}};
      expect_gradient(stage, student_.layers[1][0].values[0]);
      expect_gradient(stage, layer.input_norm);
      if (kind == LossKind::kAttnOut) continue;
      expect_gradient(stage, layer.post_norm);
      expect_gradient(stage, layer.gate_up);
    }
  }
  stage.losses = {{LossKind::kAttnOut, LossForm::kMse, 1}, {LossKind::kHidden, LossForm::kRelative, 0.3}};
  expect_gradient(stage, layer.input_norm);
}

TEST_F(AlignTest, ALayerIsFedThroughItsOwnNormOrTheTeachers) {
  StageSpec stage;
  stage.losses = {{LossKind::kAttnOut, LossForm::kRelative, 1}};
  student_.layers = teacher_.layers;  // the only difference is in the norms
  at::Tensor& query = student_.layers[1][0].values[0];
  query = query.clone().requires_grad_();
  Leaf leaf{query, at::zeros_like(query), 1};
  EXPECT_GT(loss_of(stage, leaf), 1e-3);
  student_.body.layers[1].input_norm = teacher_.body.layers[1].input_norm;
  EXPECT_LT(loss_of(stage, leaf), 1e-20);
}

}  // namespace
}  // namespace retort::train
