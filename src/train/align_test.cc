// What layer-wise stages give their tensors, against central differences of their losses in f64.
#include <gtest/gtest.h>

#include "support/tiny_model.h"
#include "test_files.h"
#include "train/mixing_matrix.h"
#include "train/stages.h"

namespace retort::train {
namespace {

constexpr int kAlignSeq = 24;

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
    mix_by("gla");
    for (auto& layer : student_.body.layers) {
      for (at::Tensor* own : {&layer.input_norm, &layer.post_norm, &layer.gate_up}) *own = *own * (1 + 0.2 * at::randn_like(*own));
    }
    batch_.rows = 2, batch_.seq = kAlignSeq, batch_.starts = {0, kAlignSeq, kAlignSeq + 7};
    for (int i = 0; i < 2 * kAlignSeq; ++i) batch_.tokens.push_back((i * 37 + i / 7) % 256);
  }

  // The student's layers, with random weights.
  void mix_by(const std::string& mixer, WindowConfig window = {}) {
    for (LayerPlan& layer : student_.config.plan) layer.parts = {Part{mixer, {0, 1}, window, nlohmann::json::object()}};
    ASSERT_TRUE(validate_plan(student_.config).ok());
    student_.layers = empty_parts(student_.config);
    for (auto& parts : student_.layers) {
      for (size_t i = 0; i < parts[0].table.size(); ++i) {
        const TensorSpec& spec = parts[0].table[i];
        if (spec.present()) parts[0].values[i] = at::randn(spec.shape, at::kDouble) / std::sqrt(double(spec.shape.back()));
      }
    }
  }
  // The teacher, with one tensor of layer 1 to train that has the teacher's values.
  Leaf be_the_teacher() {
    student_ = teacher_;
    at::Tensor& query = student_.layers[1][0].values[0];
    query = query.clone().requires_grad_();
    return {query, at::zeros_like(query), 1};
  }

  double loss_of(const StageSpec& stage, Leaf& leaf) {
    const auto runner = make_align_stage(stage, {teacher_, student_, pool_, {&leaf}});
    const auto result = runner->step(batch_, {});
    EXPECT_TRUE(result.ok()) << result.error().message;
    return result.ok() ? result->loss : 0;
  }
  double loss_of(const LossSpec& loss, Leaf& leaf) {
    StageSpec stage;
    stage.losses = {loss};
    return loss_of(stage, leaf);
  }

  // The derivative along a random direction, both ways.
  void expect_gradient(const StageSpec& stage, at::Tensor& value, int layer = 1) {
    Leaf leaf{value.requires_grad_(), at::zeros_like(value), layer};
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
    // A direction nearly across the gradient leaves little of it to compare.
    EXPECT_NEAR(given, measured, 1e-5 * std::fabs(measured) + 1e-6 * gradient.norm().item<double>());
  }

  // What the teacher's mixers are fed, and what the student's make of it with a norm of their own. [T, D]
  at::Tensor teacher_input(int layer) const {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> inputs;
    for (int r = 0; r < batch_.rows; ++r) {
      run_model(teacher_, {batch_.tokens.data() + r * batch_.seq, size_t(batch_.seq)}, batch_rows(teacher_, batch_, r, 1), [&](const LayerView& view) {
        if (view.layer == layer) inputs.push_back(view.input);
      });
    }
    return at::cat(inputs);
  }
  at::Tensor residual(int layer) const {  // X of the layers before
    const at::NoGradGuard no_grad;
    const Rows rows = batch_rows(teacher_, batch_, 0, batch_.rows);
    at::Tensor h = at::embedding(teacher_.body.embedding, torch::tensor(std::vector<int64_t>(batch_.tokens.begin(), batch_.tokens.end()))).to(at::kDouble);
    for (int l = 0; l < layer; ++l) {
      const at::Tensor x = rms_norm(h, teacher_.body.layers[l].input_norm, teacher_.config.norm_eps, teacher_.numeric);
      h = run_mlp(teacher_, l, h + run_mixers(teacher_, l, x, rows));
    }
    return h;
  }
  at::Tensor student_input(int layer) const {
    return rms_norm(residual(layer), student_.body.layers[layer].input_norm, student_.config.norm_eps, student_.numeric);
  }
  void only(std::vector<int32_t> tokens, std::vector<int32_t> starts) {
    batch_ = {1, int(tokens.size()), std::move(tokens), std::move(starts)};
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

TEST_F(AlignTest, GradientsOfMatricesHeadsAndSeveralBlocks) {
  StageSpec stage;
  for (const auto& [mixer, window] : std::vector<std::pair<std::string, WindowConfig>>{
           {"gla", {}}, {"discrete_mamba2", {}}, {"mlstm", {5, 2}}, {"rwkv7", {}}, {"hedgehog", {5, 2}}, {"slots", {}}, {"window", {6, 1}}}) {
    SCOPED_TRACE(mixer);
    mix_by(mixer, window);
    at::Tensor &projection = student_.layers[1][0].values[0], &norm = student_.body.layers[1].input_norm;
    for (const LossForm form : {LossForm::kFrobenius, LossForm::kMse}) {
      stage.losses = {{LossKind::kMatrix, form, 0.7}};
      expect_gradient(stage, projection);
      expect_gradient(stage, norm);
    }
    stage.losses = {{LossKind::kAttnOut, LossForm::kMse, 1000}};
    stage.losses[0].at_heads = true;
    expect_gradient(stage, projection);
    stage.losses.push_back({LossKind::kMatrix, LossForm::kMse, 30});
    stage.losses.push_back({LossKind::kHidden, LossForm::kL2, 0.2});
    expect_gradient(stage, projection);
    expect_gradient(stage, norm);
    if (!rows_sum_to_one(student_.config.plan[1].parts[0])) continue;
    stage.losses = {{LossKind::kAttnXent, LossForm::kSoftCe, 0.3}};
    expect_gradient(stage, projection);
    stage.losses.push_back({LossKind::kMatrix, LossForm::kFrobenius, 0.1});
    expect_gradient(stage, norm);
  }
  mix_by("gla");
  for (const LossForm form : {LossForm::kL2, LossForm::kRelative}) {
    stage.losses = {{LossKind::kHidden, form, 0.7}, {LossKind::kAttnOut, LossForm::kMse, 0.5}};
    stage.losses[0].gap = 3;
    for (int layer = 0; layer < 3; ++layer) {
      SCOPED_TRACE(layer);
      expect_gradient(stage, student_.layers[layer][0].values[0], layer);
      expect_gradient(stage, student_.body.layers[layer].input_norm, layer);
      expect_gradient(stage, student_.body.layers[layer].gate_up, layer);
    }
  }
}

TEST_F(AlignTest, LossesOfMatricesAreTheirFormulas) {
  mix_by("hedgehog", {5, 2});
  at::Tensor& query = student_.layers[1][0].values[0];
  Leaf leaf{query.requires_grad_(), at::zeros_like(query), 1};
  const Rows rows = batch_rows(teacher_, batch_, 0, 2);
  const at::NoGradGuard no_grad;
  MixingMatrices own(student_.layers[1][0], student_input(1), rows, Numeric::kExact), theirs(teacher_.layers[1][0], teacher_input(1), rows, Numeric::kExact);
  double norms = 0, squares = 0, cross = 0;
  for (int h = 0; h < 4; ++h) {
    double row_squares[2] = {0, 0};
    for (const Sequence& s : rows.sequences) {
      const at::Tensor m = own.of(h / 2 * 2, 2, s).select(1, h % 2), a = theirs.of(h, 1, s).select(1, 0);
      for (int64_t t = 0; t < s.size; ++t) {
        double sum = 0;
        for (int64_t r = 0; r < s.size; ++r) {
          const double x = m[t][r].item<double>(), y = a[t][r].item<double>();
          row_squares[s.begin / kAlignSeq] += (x - y) * (x - y);
          cross -= y * std::log(std::max(x, 1e-12));
          sum += y;
        }
        EXPECT_NEAR(sum, 1, 1e-12);
      }
    }
    for (const double e : row_squares) norms += std::sqrt(e), squares += e;
  }
  const at::AutoGradMode with_grad(true);
  EXPECT_NEAR(loss_of({LossKind::kMatrix, LossForm::kFrobenius, 1}, leaf), norms / 8, 1e-9);
  EXPECT_NEAR(loss_of({LossKind::kMatrix, LossForm::kMse, 1}, leaf), squares / (8.0 * kAlignSeq * kAlignSeq), 1e-12);
  EXPECT_NEAR(loss_of({LossKind::kAttnXent, LossForm::kSoftCe, 1}, leaf), cross / (8.0 * kAlignSeq), 1e-9);
  EXPECT_GT(norms, 0.1);
}

// Before the final norm; and the norm of a row over D, not squared, not divided.
TEST_F(AlignTest, TheLastBlockIsComparedBeforeTheFinalNorm) {
  const int last = 2;
  at::Tensor& query = student_.layers[last][0].values[0];
  Leaf leaf{query.requires_grad_(), at::zeros_like(query), last};
  const Rows rows = batch_rows(teacher_, batch_, 0, 2);
  const double loss = loss_of({LossKind::kHidden, LossForm::kL2, 1}, leaf);
  const at::NoGradGuard no_grad;
  const at::Tensor before = residual(last), target = residual(last + 1);
  const at::Tensor got = run_mlp(student_, last, before + run_mixers(student_, last, student_input(last), rows));
  double sum = 0;
  for (int64_t t = 0; t < target.size(0); ++t) {
    double squares = 0;
    for (int64_t d = 0; d < target.size(1); ++d) squares += std::pow((got[t][d] - target[t][d]).item<double>(), 2);
    sum += std::sqrt(squares);
  }
  EXPECT_NEAR(loss, sum / double(target.size(0)), 1e-9);
  std::vector<at::Tensor> finals;
  for (int r = 0; r < 2; ++r) finals.push_back(run_model(teacher_, {batch_.tokens.data() + r * kAlignSeq, kAlignSeq}, batch_rows(teacher_, batch_, r, 1)));
  const at::Tensor normed = at::cat(finals);
  EXPECT_LT((rms_norm(target, teacher_.body.final_norm, teacher_.config.norm_eps, Numeric::kExact) - normed).abs().max().item<double>(), 1e-12);
  EXPECT_GT((normed - target).norm(2, 1).mean().item<double>(), 0.1) << "the norm does something";
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

TEST_F(AlignTest, AttentionWithTheTeachersWeightsLosesNothing) {
  Leaf leaf = be_the_teacher();
  for (const bool heads : {false, true}) {
    for (const LossForm form : {LossForm::kMse, LossForm::kL2, LossForm::kRelative}) {
      LossSpec loss{LossKind::kAttnOut, form, 1};
      loss.at_heads = heads;
      EXPECT_LT(loss_of(loss, leaf), 1e-13) << heads << " " << int(form);
    }
  }
  for (const int gap : {1, 3}) {
    LossSpec loss{LossKind::kHidden, LossForm::kL2, 1};
    loss.gap = gap;
    EXPECT_LT(loss_of(loss, leaf), 1e-13) << gap;
  }
  EXPECT_LT(loss_of({LossKind::kMatrix, LossForm::kMse, 1}, leaf), 1e-28);
  EXPECT_NEAR(loss_of({LossKind::kMatrix, LossForm::kFrobenius, 1}, leaf), 1e-6, 1e-9) << "the root of 1e-12";
  EXPECT_LT(leaf.gradient.abs().max().item<double>(), 1e-6);
  // What is left of the cross entropy is the teacher's own.
  const Rows rows = batch_rows(teacher_, batch_, 0, 2);
  double entropy = 0;
  {
    const at::NoGradGuard no_grad;
    MixingMatrices matrices(teacher_.layers[1][0], teacher_input(1), rows, Numeric::kExact);
    for (int h = 0; h < 4; ++h) {
      for (const Sequence& s : rows.sequences) {
        const at::Tensor a = matrices.of(h, 1, s);
        entropy -= (a * a.clamp_min(1e-12).log()).sum().item<double>();
      }
    }
  }
  EXPECT_NEAR(loss_of({LossKind::kAttnXent, LossForm::kSoftCe, 1}, leaf), entropy / (4.0 * 2 * kAlignSeq), 1e-9);
}

TEST_F(AlignTest, APackOfTwoDocumentsIsTheTwoAlone) {
  mix_by("hedgehog", {5, 2});
  const std::vector<int32_t> tokens(batch_.tokens.begin(), batch_.tokens.begin() + kAlignSeq);
  const auto share = [](LossKind kind, LossForm form, bool heads = false) {
    LossSpec loss{kind, form, 1};
    loss.at_heads = heads;
    return loss;
  };
  for (const LossSpec& loss : {share(LossKind::kMatrix, LossForm::kMse), share(LossKind::kAttnXent, LossForm::kSoftCe), share(LossKind::kHidden, LossForm::kL2),
                               share(LossKind::kAttnOut, LossForm::kMse, true), share(LossKind::kAttnOut, LossForm::kL2)}) {
    SCOPED_TRACE(loss_name(loss.kind));
    at::Tensor& query = student_.layers[1][0].values[0];
    const auto run = [&](int first, int count, std::vector<int32_t> starts) {
      Leaf leaf{query.requires_grad_(), at::zeros_like(query), 1};
      only({tokens.begin() + first, tokens.begin() + first + count}, std::move(starts));
      const double factor = loss.kind == LossKind::kMatrix ? double(count) * count : count;
      const double value = loss_of(loss, leaf);
      return std::pair(value * factor, leaf.gradient * factor);
    };
    const auto [packed, packed_gradient] = run(0, kAlignSeq, {0, 7});
    const auto [first, first_gradient] = run(0, 7, {0});
    const auto [second, second_gradient] = run(7, kAlignSeq - 7, {0});
    EXPECT_NEAR(packed, first + second, 1e-10 * packed);
    EXPECT_LT((packed_gradient - first_gradient - second_gradient).abs().max().item<double>(), 1e-10 * packed_gradient.abs().max().item<double>());
    EXPECT_GT(packed, 1e-3);
    EXPECT_GT(packed_gradient.abs().max().item<double>(), 1e-6);
  }
}

// A layer's head that stays attention is not compared, and the others are compared with their own heads of the teacher.
TEST_F(AlignTest, HeadsOfAHybridMeetTheirOwn) {
  const Part window{"window", {1}, {4, 0}, nlohmann::json::object()}, attention{"attention", {0}, {}, nlohmann::json::object()};
  student_ = teacher_;
  for (LayerPlan& layer : student_.config.plan) layer.parts = {window, attention};
  ASSERT_TRUE(validate_plan(student_.config).ok());
  student_.layers = empty_parts(student_.config);
  const int width = 8;
  for (size_t l = 0; l < student_.layers.size(); ++l) {
    for (size_t p = 0; p < 2; ++p) {
      const int g = p == 0 ? 1 : 0;
      const auto& from = teacher_.layers[l][0].values;
      auto& to = student_.layers[l][p].values;
      to[qkv::kQ] = from[qkv::kQ].narrow(0, g * 2 * width, 2 * width).clone();
      to[qkv::kK] = from[qkv::kK].narrow(0, g * width, width).clone();
      to[qkv::kV] = from[qkv::kV].narrow(0, g * width, width).clone();
      to[qkv::kO] = from[qkv::kO].narrow(1, g * 2 * width, 2 * width).clone();
    }
  }
  at::Tensor& query = student_.layers[1][0].values[qkv::kQ];
  Leaf leaf{query.requires_grad_(), at::zeros_like(query), 1};
  LossSpec at_heads{LossKind::kAttnOut, LossForm::kMse, 1};
  at_heads.at_heads = true;
  EXPECT_GT(loss_of({LossKind::kMatrix, LossForm::kMse, 1}, leaf), 1e-5);
  EXPECT_GT(loss_of(at_heads, leaf), 1e-5);
  for (auto& layer : student_.config.plan) layer.parts[0].window.size = kAlignSeq;  // sees as much as attention
  for (auto& layer : student_.layers) layer[0].part.window.size = layer[0].shape.window.size = kAlignSeq;
  EXPECT_LT(loss_of({LossKind::kMatrix, LossForm::kMse, 1}, leaf), 1e-28);
  EXPECT_LT(loss_of(at_heads, leaf), 1e-26);
}

}  // namespace
}  // namespace retort::train
