// Losses against a teacher's largest logits and its second teacher, against plain loops.
#include "train/top_logits.h"

#include <gtest/gtest.h>

#include "support/tiny_pair.h"
#include "test_files.h"
#include "train/stages.h"

namespace retort::train {
namespace {

// Cross-entropy and entropy over the tokens in `ids` and one bin of all others.
std::pair<double, double> in_bins(const std::vector<double>& p, const std::vector<double>& q, const std::vector<int64_t>& ids) {
  double cross = 0, entropy = 0, rest_p = 1, rest_q = 0;
  for (const int64_t id : ids) {
    cross -= p[size_t(id)] * std::log(q[size_t(id)]);
    entropy -= p[size_t(id)] * std::log(p[size_t(id)]);
    rest_p -= p[size_t(id)];
  }
  for (size_t v = 0; v < q.size(); ++v) rest_q += std::find(ids.begin(), ids.end(), int64_t(v)) == ids.end() ? q[v] : 0;
  if (ids.size() < p.size()) cross -= rest_p * std::log(rest_q), entropy -= rest_p * std::log(rest_p);
  return {cross, entropy};
}

std::vector<double> softmax_of(const at::Tensor& logits, int64_t row) {
  const at::Tensor p = at::softmax(logits[row], 0).to(at::kDouble).contiguous();
  return {p.data_ptr<double>(), p.data_ptr<double>() + p.numel()};
}

SoftTargets targets_of(const at::Tensor& teacher, int k) {
  const at::Tensor log_p = at::log_softmax(teacher, 1);
  const auto [values, ids] = log_p.topk(k, 1, true, true);
  SoftTargets out{ids, values.exp(), values, (1 - values.exp().sum(1, true)).clamp_min(0)};
  if (k == teacher.size(1)) out.rest.zero_();
  return out;
}

TEST(TopLoss, IsTheDivergenceWithOneBinForTheRest) {
  torch::manual_seed(5);
  const at::Tensor teacher = 2 * at::randn({6, 40}, at::kDouble);
  at::Tensor student = 2 * at::randn({6, 40}, at::kDouble);
  for (const int k : {1, 7, 39, 40}) {
    SCOPED_TRACE(k);
    const SoftTargets targets = targets_of(teacher, k);
    const SoftSums sums = top_loss(student, targets, {});
    double cross = 0, entropy = 0, whole = 0;
    for (int64_t t = 0; t < 6; ++t) {
      const auto p = softmax_of(teacher, t), q = softmax_of(student, t);
      const at::Tensor id = targets.ids[t].contiguous();
      const auto [c, e] = in_bins(p, q, {id.data_ptr<int64_t>(), id.data_ptr<int64_t>() + k});
      cross += c, entropy += e;
      for (size_t v = 0; v < p.size(); ++v) whole += p[v] * std::log(p[v] / q[v]);
    }
    EXPECT_NEAR(sums.cross, cross, 1e-9 * cross);
    EXPECT_NEAR(sums.entropy, entropy, 1e-9);
    EXPECT_LE(sums.cross - sums.entropy, whole * (1 + 1e-9));
    if (k == 40) {
      EXPECT_NEAR(sums.cross - sums.entropy, whole, 1e-9 * whole) << "all tokens: the whole divergence";
    }
    const auto [given, measured] = fake::slopes(student, sums.gradient, [&] { return top_loss(student, targets, {}).cross; });
    EXPECT_NEAR(given, measured, 1e-6 * std::fabs(measured));
  }
}

TEST(TopLoss, MaskedPositionsCountForNothing) {
  torch::manual_seed(6);
  const at::Tensor teacher = at::randn({4, 30}, at::kDouble), student = at::randn({4, 30}, at::kDouble);
  const at::Tensor mask = torch::tensor({1.0, 0.0, 1.0, 0.0}, at::kDouble).unsqueeze(1), kept = torch::tensor({0, 2}, at::kLong);
  const SoftSums masked = top_loss(student, targets_of(teacher, 5), mask),
                 alone = top_loss(student.index_select(0, kept), targets_of(teacher.index_select(0, kept), 5), {});
  EXPECT_NEAR(masked.cross, alone.cross, 1e-12);
  EXPECT_NEAR(masked.entropy, alone.entropy, 1e-12);
  EXPECT_TRUE(at::allclose(masked.gradient.index_select(0, kept), alone.gradient));
  EXPECT_EQ(masked.gradient[1].abs().max().item<double>(), 0);
}

// Far from what the teacher says, or sure of it, nothing becomes infinite.
TEST(TopLoss, ExtremesAreFinite) {
  at::Tensor student = at::zeros({2, 30});
  student[0][3] = 200, student[1][29] = 200;
  SoftTargets targets{torch::tensor({{3, 4}, {3, 4}}, at::kLong), torch::tensor({{1.0f, 0.0f}, {0.6f, 0.3f}}), torch::tensor({{0.0f, -60.0f}, {-0.51f, -1.2f}}),
                      torch::tensor({{0.0f}, {0.1f}})};
  const SoftSums sums = top_loss(student, targets, {});
  EXPECT_TRUE(std::isfinite(sums.cross) && std::isfinite(sums.entropy));
  EXPECT_TRUE(at::isfinite(sums.gradient).all().item<bool>());
}

class TeacherTest : public ::testing::Test {
 protected:
  static constexpr int kSeq = 20;
  void SetUp() override {
    auto pair = fake::tiny_pair(folder_ / "teacher", Numeric::kExact);
    ASSERT_TRUE(pair.ok()) << pair.error().message;
    teacher_ = std::move(pair->teacher), student_ = std::move(pair->student);
    batch_.rows = 2, batch_.seq = kSeq, batch_.starts = {0, kSeq, kSeq + 7};
    for (int i = 0; i < 2 * kSeq; ++i) batch_.tokens.push_back((i * 37 + i / 7) % 256);
    stage_.losses = {LossSpec{LossKind::kLogits, LossForm::kKl}};
  }
  at::Tensor& query() { return student_.layers[1][0].values[0]; }
  std::shared_ptr<LogitCache> cache(int top_k) {
    auto out = LogitCache::open(folder_ / cat("cache", top_k), {{"k", top_k}}, {kSeq, top_k, teacher_.config.vocab_size});
    EXPECT_TRUE(out.ok()) << out.error().message;
    return *out;
  }
  // The loss of one step of a new stage, and the gradient of query().
  std::pair<double, at::Tensor> step(std::shared_ptr<LogitCache> cache, const TorchModel& teacher) {
    Leaf leaf{query().requires_grad_(), at::zeros_like(query()), 1};
    const auto stage = make_logit_stage(stage_, {teacher, student_, pool_, {&leaf}});
    if (cache) stage->use_cache(cache);
    const auto result = stage->step(batch_, {});
    query().requires_grad_(false);
    EXPECT_TRUE(result.ok()) << result.error().message;
    return {result.ok() ? result->loss : 0, leaf.gradient};
  }
  // Mean over positions of the divergence over the first `tokens` logits.
  double expected(const TorchModel& teacher, size_t tokens) const {
    double sum = 0;
    for (const auto& [begin, text] : fake::sequences_of(batch_)) {
      const auto p = fake::log_probabilities(teacher, text), q = fake::log_probabilities(student_, text);
      for (size_t t = 0; t < text.size(); ++t) {
        double p_sum = 0, q_sum = 0;
        for (size_t v = 0; v < tokens; ++v) p_sum += std::exp(p[t][v]), q_sum += std::exp(q[t][v]);
        for (size_t v = 0; v < tokens; ++v) sum += std::exp(p[t][v]) / p_sum * (p[t][v] - std::log(p_sum) - q[t][v] + std::log(q_sum));
      }
    }
    return sum / (2 * kSeq);
  }

  retort::test::TempFolder folder_;
  TorchModel teacher_, student_;
  ThreadPool pool_{2};
  Batch batch_;
  StageSpec stage_;
};

TEST_F(TeacherTest, ACacheOfAllLogitsIsTheTeacher) {
  const auto [loss, gradient] = step(nullptr, teacher_);
  EXPECT_NEAR(loss, expected(teacher_, 260), 2e-5 * loss);
  const auto [kept_loss, kept_gradient] = step(cache(260), teacher_);
  EXPECT_NEAR(kept_loss, loss, 2e-3 * loss) << "but for what f16 rounds";
  EXPECT_LT((kept_gradient - gradient).norm().item<double>(), 5e-3 * gradient.norm().item<double>());
}

// What is read is what was written, to the bit; and the teacher is not asked: here it would say something else.
TEST_F(TeacherTest, WhatIsCachedIsReadInsteadOfTheTeacher) {
  TorchModel other = teacher_;
  other.body.final_norm = other.body.final_norm * -3;
  const auto uncached = step(nullptr, other);
  for (const LossMask mask : {LossMask::kAll, LossMask::kLabels}) {
    stage_.losses[0].mask = mask;
    stage_.logit_fraction = 0.5;
    std::filesystem::remove_all(folder_ / "cache8");
    const auto [loss, gradient] = step(cache(8), teacher_);
    ASSERT_EQ(cache(8)->rows(), 2);
    const auto [again_loss, again_gradient] = step(cache(8), other);
    EXPECT_EQ(again_loss, loss);
    EXPECT_TRUE(again_gradient.equal(gradient));
    EXPECT_NE(loss, uncached.first);
  }
}

// Of the batches of a stream those behind the cache's end are added; where a row is missing nothing is.
TEST_F(TeacherTest, ACacheGrowsInItsOrder) {
  step(cache(8), teacher_);
  batch_.number = 2;
  const auto far = step(cache(8), teacher_);
  EXPECT_EQ(cache(8)->rows(), 2);
  batch_.number = 1;
  const auto next = step(cache(8), teacher_);
  EXPECT_EQ(cache(8)->rows(), 4);
  EXPECT_EQ(far.first, next.first) << "rounded as if it had been kept";
  batch_.number = 0;
  std::swap(batch_.tokens[3], batch_.tokens[4]);
  Leaf leaf{query().requires_grad_(), at::zeros_like(query()), 1};
  const auto stage = make_logit_stage(stage_, {teacher_, student_, pool_, {&leaf}});
  stage->use_cache(cache(8));
  const auto result = stage->step(batch_, {});
  query().requires_grad_(false);
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message.find("row 0: of another text"), std::string::npos);
}

TEST_F(TeacherTest, ASecondTeacherOfAnotherSizeIsAskedFromTheSwitchOn) {
  ModelConfig config = retort::test::tiny_config();
  config.layers = 2, config.width = 24, config.heads = 3, config.kv_heads = 1, config.vocab_size = 264;
  config.plan = attention_plan(config);
  ASSERT_TRUE(retort::test::write_random_model(folder_ / "second", config, 8).ok());
  const auto files = open_model(folder_ / "second");
  ASSERT_TRUE(files.ok()) << files.error().message;
  const auto second = load_model(*files, Numeric::kExact, at::kDouble);
  ASSERT_TRUE(second.ok());
  Leaf leaf{query().requires_grad_(), at::zeros_like(query()), 1};
  StageContext context{teacher_, student_, pool_, {&leaf}};
  context.tokens = 256;
  context.open_second = [&](const std::string& hash) -> Result<TorchModel> {
    if (hash != "as it was") return invalid("changed");
    return *second;
  };
  const auto stage = make_logit_stage(stage_, context);
  const auto before = stage->step(batch_, {});
  ASSERT_TRUE(before.ok());
  leaf.gradient.zero_();
  EXPECT_FALSE(stage->switch_teacher("as it is").ok());
  ASSERT_TRUE(stage->switch_teacher("as it was").ok());
  const auto after = stage->step(batch_, {});
  query().requires_grad_(false);
  ASSERT_TRUE(after.ok());
  EXPECT_NEAR(before->loss, expected(teacher_, 256), 2e-5 * before->loss);
  EXPECT_NEAR(after->loss, expected(*second, 256), 2e-5 * after->loss) << "over the tokens that both have";
  EXPECT_GT(std::fabs(after->loss - before->loss), 0.01);
  const auto [given, measured] = fake::slopes(query(), leaf.gradient, [&] { return expected(*second, 256); });
  EXPECT_NEAR(given, measured, 3e-4 * std::fabs(measured));
}

}  // namespace
}  // namespace retort::train
