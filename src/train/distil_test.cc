// End-to-end losses and their gradients against formulas by plain loops, each sequence computed alone; which positions masks leave out.
#include <gtest/gtest.h>

#include "support/tiny_pair.h"
#include "test_files.h"
#include "train/stages.h"

namespace retort::train {
namespace {

constexpr int kDistilSeq = 24;

class DistilTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto pair = fake::tiny_pair(folder_ / "teacher", Numeric::kExact);
    ASSERT_TRUE(pair.ok()) << pair.error().message;
    teacher_ = std::move(pair->teacher);
    student_ = std::move(pair->student);
    // Two documents in the second row; in every sequence a few labels, none of them its last token.
    batch_.rows = 2, batch_.seq = kDistilSeq, batch_.starts = {0, kDistilSeq, kDistilSeq + 7};
    for (int i = 0; i < 2 * kDistilSeq; ++i) {
      batch_.tokens.push_back((i * 37 + i / 7) % 256);
      const bool last = i + 1 == kDistilSeq || i + 1 == kDistilSeq + 7 || i + 1 == 2 * kDistilSeq;
      batch_.labels.push_back(i % 3 == 1 && !last);
    }
  }

  static StageSpec stage_of(std::vector<LossSpec> losses) {
    StageSpec stage;
    stage.losses = std::move(losses);
    return stage;
  }
  static LossSpec logits(LossForm form, LossMask mask, double weight = 1, double temperature = 1, Reduction reduction = Reduction::kTokenMean) {
    LossSpec loss{LossKind::kLogits, form, weight};
    loss.temperature = temperature, loss.mask = mask, loss.reduction = reduction;
    return loss;
  }
  static LossSpec ce(LossMask mask, double weight = 1) {
    LossSpec loss{LossKind::kCe, LossForm::kHard, weight};
    loss.mask = mask;
    return loss;
  }

  struct Step {
    StepResult result;
    at::Tensor gradient;
  };
  Step step(const StageSpec& stage, at::Tensor& value, const Batch& batch) {
    Leaf leaf{value.requires_grad_(), at::zeros_like(value), 1};
    const auto result = make_logit_stage(stage, {teacher_, student_, pool_, {&leaf}})->step(batch, {});
    value.requires_grad_(false);
    EXPECT_TRUE(result.ok()) << result.error().message;
    return {result.ok() ? *result : StepResult{}, leaf.gradient};
  }

  // What the losses are, summed as their reductions say.
  double expected(const std::vector<LossSpec>& losses, const Batch& batch) const {
    double total = 0;
    for (const LossSpec& loss : losses) {
      double sum = 0, count = 0;
      for (const auto& [begin, tokens] : fake::sequences_of(batch)) {
        const auto p = fake::log_probabilities(teacher_, tokens), q = fake::log_probabilities(student_, tokens);
        for (size_t t = 0; t < tokens.size(); ++t) {
          const bool followed = t + 1 < tokens.size(), label = followed && (batch.labels.empty() || batch.labels[begin + t + 1]);
          if (loss.mask == LossMask::kLabels ? !label : loss.kind == LossKind::kCe && !followed) continue;
          ++count;
          if (loss.kind == LossKind::kCe) sum -= q[t][size_t(tokens[t + 1])];
          else sum += between(p[t], q[t], loss);
        }
      }
      total += loss.weight * sum / (loss.reduction == Reduction::kBatchMean ? batch.rows : count);
    }
    return total;
  }
  static double between(const std::vector<double>& p, const std::vector<double>& q, const LossSpec& loss) {
    double p_sum = 0, q_sum = 0, out = 0;
    for (size_t v = 0; v < p.size(); ++v) p_sum += std::exp(p[v] / loss.temperature), q_sum += std::exp(q[v] / loss.temperature);
    for (size_t v = 0; v < p.size(); ++v) {
      const double log_p = p[v] / loss.temperature - std::log(p_sum), log_q = q[v] / loss.temperature - std::log(q_sum);
      out += std::exp(log_p) * (loss.form == LossForm::kKl ? (log_p - log_q) * loss.temperature * loss.temperature : -log_q);
    }
    return out;
  }

  void expect_right(const std::vector<LossSpec>& losses, at::Tensor& value, const Batch& batch) {
    const Step got = step(stage_of(losses), value, batch);
    EXPECT_NEAR(got.result.loss, expected(losses, batch), 2e-5 * std::fabs(got.result.loss));
    const auto [given, measured] = fake::slopes(value, got.gradient, [&] { return expected(losses, batch); });
    EXPECT_GT(std::fabs(measured), 1e-6) << "the loss does not depend on it";
    EXPECT_NEAR(given, measured, 3e-4 * std::fabs(measured));
  }

  retort::test::TempFolder folder_;
  TorchModel teacher_, student_;
  ThreadPool pool_{2};
  Batch batch_;
};

TEST_F(DistilTest, LossesAndGradientsAreTheFormulas) {
  at::Tensor& query = student_.layers[1][0].values[0];
  const std::vector<std::vector<LossSpec>> cases = {
      {ce(LossMask::kLabels)},
      {ce(LossMask::kAll)},
      {logits(LossForm::kKl, LossMask::kAll)},
      {logits(LossForm::kKl, LossMask::kLabels, 0.7, 2)},
      {logits(LossForm::kSoftCe, LossMask::kLabels)},
      {logits(LossForm::kKl, LossMask::kAll, 0.5), ce(LossMask::kLabels, 2)},
      {logits(LossForm::kKl, LossMask::kLabels, 0.5), ce(LossMask::kAll, 2)},
      {logits(LossForm::kKl, LossMask::kAll, 1, 1, Reduction::kBatchMean)},
      {logits(LossForm::kKl, LossMask::kLabels, 1, 1, Reduction::kBatchMean)}};
  for (size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(i);
    expect_right(cases[i], query, batch_);
    Batch text = batch_;
    text.labels.clear();
    expect_right(cases[i], query, text);
  }
}

// The factor of its square makes up for what a temperature takes from the gradient: of 2 without it, three quarters.
TEST_F(DistilTest, ATemperatureLeavesTheGradientItsSize) {
  at::Tensor& query = student_.layers[1][0].values[0];
  const double plain = step(stage_of({logits(LossForm::kKl, LossMask::kAll)}), query, batch_).gradient.norm().item<double>();
  const double warm = step(stage_of({logits(LossForm::kKl, LossMask::kAll, 1, 2)}), query, batch_).gradient.norm().item<double>();
  EXPECT_GT(warm, 0.6 * plain);
  EXPECT_LT(warm, 1.6 * plain);
}

// Rows of the head that no token has: whatever is in them, the loss is the same, and they learn nothing.
TEST_F(DistilTest, PaddingIsInNoLossAndLearnsNothing) {
  student_.body.embedding = student_.body.embedding.clone();
  at::Tensor& head = student_.body.head = student_.body.embedding;
  const StageSpec stage = stage_of({logits(LossForm::kKl, LossMask::kAll, 0.5), ce(LossMask::kAll, 2)});
  const auto padded_step = [&](int64_t tokens) {
    Leaf leaf{head.requires_grad_(), at::zeros_like(head), 1};
    StageContext context{teacher_, student_, pool_, {&leaf}};
    context.tokens = tokens;
    const auto result = make_logit_stage(stage, context)->step(batch_, {});
    head.requires_grad_(false);
    EXPECT_TRUE(result.ok()) << result.error().message;
    return std::pair(result.ok() ? result->loss : 0, leaf.gradient);
  };
  const auto [loss, gradient] = padded_step(256);
  EXPECT_EQ(gradient.narrow(0, 256, 4).abs().max().item<double>(), 0);
  EXPECT_GT(gradient.narrow(0, 0, 256).abs().max().item<double>(), 0);
  head.narrow(0, 256, 4).add_(3);
  EXPECT_EQ(padded_step(256).first, loss);
  EXPECT_GT(std::fabs(padded_step(0).first - loss), 0.1) << "all are tokens where nothing is known";
}

TEST_F(DistilTest, TheHeadLearnsFromLabelsToo) {
  student_.body.embedding = student_.body.embedding.clone();
  student_.body.head = student_.body.embedding;
  expect_right({ce(LossMask::kLabels)}, student_.body.embedding, batch_);
}

// Every sequence's last token is no label and nothing comes after it: it is a target and nothing else.
TEST_F(DistilTest, MaskedTargetsChangeNothing) {
  at::Tensor& query = student_.layers[1][0].values[0];
  Batch other = batch_;
  for (const int last : {kDistilSeq - 1, kDistilSeq + 6, 2 * kDistilSeq - 1}) other.tokens[size_t(last)] = 255 - other.tokens[size_t(last)];
  const std::vector<std::vector<LossSpec>> cases = {{ce(LossMask::kLabels)}, {logits(LossForm::kKl, LossMask::kLabels), ce(LossMask::kLabels, 0.3)}};
  for (const auto& losses : cases) {
    const Step a = step(stage_of(losses), query, batch_), b = step(stage_of(losses), query, other);
    EXPECT_EQ(a.result.loss, b.result.loss);
    EXPECT_TRUE(a.gradient.equal(b.gradient));
  }
  const Step a = step(stage_of({ce(LossMask::kAll)}), query, batch_), b = step(stage_of({ce(LossMask::kAll)}), query, other);
  EXPECT_NE(a.result.loss, b.result.loss) << "the test can tell";
}

TEST_F(DistilTest, SoftCrossEntropyIsTheDivergenceAndTheEntropy) {
  at::Tensor& query = student_.layers[1][0].values[0];
  const Step soft = step(stage_of({logits(LossForm::kSoftCe, LossMask::kAll)}), query, batch_),
             kl = step(stage_of({logits(LossForm::kKl, LossMask::kAll)}), query, batch_);
  double entropy = 0;
  for (const auto& [begin, tokens] : fake::sequences_of(batch_)) {
    for (const auto& p : fake::log_probabilities(teacher_, tokens)) {
      for (const double log_p : p) entropy -= std::exp(log_p) * log_p / (2 * kDistilSeq);
    }
  }
  EXPECT_NEAR(soft.result.loss - kl.result.loss, entropy, 1e-5 * entropy);
  EXPECT_TRUE(soft.gradient.equal(kl.gradient));
}

TEST_F(DistilTest, BatchMeanIsTheTokenMeanTimesTheRowsLength) {
  at::Tensor& query = student_.layers[1][0].values[0];
  const Step token = step(stage_of({logits(LossForm::kKl, LossMask::kAll)}), query, batch_),
             row = step(stage_of({logits(LossForm::kKl, LossMask::kAll, 1, 1, Reduction::kBatchMean)}), query, batch_);
  const double size = row.gradient.norm().item<double>(), apart = (row.gradient - token.gradient * kDistilSeq).norm().item<double>();
  EXPECT_GT(size, 0);
  EXPECT_LT(apart, 1e-6 * size);
  EXPECT_NEAR(row.result.loss, token.result.loss * kDistilSeq, 1e-6 * row.result.loss);
}

// Of a share of the positions the sum over all of them is estimated: the same multiple of the same sample's mean.
TEST_F(DistilTest, BatchMeanOfAShareOfThePositions) {
  at::Tensor& query = student_.layers[1][0].values[0];
  StageSpec tokens = stage_of({logits(LossForm::kKl, LossMask::kAll)}), rows = stage_of({logits(LossForm::kKl, LossMask::kAll, 1, 1, Reduction::kBatchMean)});
  tokens.logit_fraction = rows.logit_fraction = 0.25;
  const Step token = step(tokens, query, batch_), row = step(rows, query, batch_);
  EXPECT_NEAR(row.result.loss, token.result.loss * kDistilSeq, 1e-6 * row.result.loss);
  EXPECT_LT((row.gradient - token.gradient * kDistilSeq).norm().item<double>(), 1e-6 * row.gradient.norm().item<double>());
}

TEST_F(DistilTest, ABatchWithoutLabelsMovesNothing) {
  at::Tensor& query = student_.layers[1][0].values[0];
  Batch none = batch_;
  std::fill(none.labels.begin(), none.labels.end(), 0);
  const Step got = step(stage_of({ce(LossMask::kLabels)}), query, none);
  EXPECT_EQ(got.result.loss, 0);
  EXPECT_EQ(got.gradient.abs().max().item<double>(), 0);
}

TEST_F(DistilTest, AShareOfTheLabelsIsAShareOfTheLabels) {
  at::Tensor& query = student_.layers[1][0].values[0];
  StageSpec stage = stage_of({ce(LossMask::kLabels)});
  stage.logit_fraction = 0.5;
  double mean = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Leaf leaf{query.requires_grad_(), at::zeros_like(query), 1};
    StepContext context;
    context.seed = seed;
    const auto result = make_logit_stage(stage, {teacher_, student_, pool_, {&leaf}})->step(batch_, context);
    ASSERT_TRUE(result.ok());
    mean += result->loss / 60;
  }
  query.requires_grad_(false);
  EXPECT_NEAR(mean, expected({ce(LossMask::kLabels)}, batch_), 0.05 * mean);
}

}  // namespace
}  // namespace retort::train
