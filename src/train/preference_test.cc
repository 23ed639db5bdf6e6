// dpo against its formula by plain loops, every conversation computed alone.
#include <gtest/gtest.h>

#include "support/tiny_pair.h"
#include "test_files.h"
#include "train/stages.h"

namespace retort::train {
namespace {

class PreferenceTest : public ::testing::Test {
 protected:
  void open(Numeric numeric) {
    auto pair = fake::tiny_pair(folder_ / cat("teacher", opened_++), numeric);
    ASSERT_TRUE(pair.ok()) << pair.error().message;
    teacher_ = std::move(pair->teacher);
    student_ = std::move(pair->student);
  }
  void SetUp() override { open(Numeric::kExact); }

  // Conversations of different lengths with answers of different lengths, filled up to `seq` tokens.
  static Batch pairs(int seq) {
    Batch batch;
    batch.rows = 4, batch.seq = seq;
    const int sizes[] = {19, 12, 9, 20}, prompts[] = {6, 6, 4, 4};
    for (int r = 0; r < 4; ++r) {
      batch.starts.push_back(r * seq);
      if (sizes[r] < seq) batch.starts.push_back(r * seq + sizes[r]);
      for (int t = 0; t < seq; ++t) {
        const bool answer = t >= prompts[r] && t < sizes[r];
        batch.tokens.push_back(t >= sizes[r] ? 11 : answer ? (r * 31 + t * 7) % 250 : (r / 2 * 50 + t) % 250);
        batch.labels.push_back(answer);
      }
      batch.padding += seq - sizes[r];
    }
    return batch;
  }
  static StageSpec stage_of(Reference reference, double beta = 0.3, double weight = 1) {
    LossSpec loss{LossKind::kDpo, LossForm::kSigmoid, weight};
    loss.beta = beta, loss.reference = reference;
    StageSpec stage;
    stage.losses = {loss};
    return stage;
  }

  struct Expected {
    double loss = 0, accuracy = 0, chosen = 0, rejected = 0;
  };
  static Expected expected(const TorchModel& student, const TorchModel& reference, const Batch& batch, double beta) {
    Expected out;
    std::vector<double> reward;
    for (const auto& [begin, tokens] : fake::sequences_of(batch)) {
      if (begin % size_t(batch.seq) != 0) continue;
      const auto s = fake::log_probabilities(student, tokens), r = fake::log_probabilities(reference, tokens);
      reward.push_back(0);
      for (size_t t = 0; t + 1 < tokens.size(); ++t) {
        if (batch.labels[begin + t + 1]) reward.back() += beta * (s[t][size_t(tokens[t + 1])] - r[t][size_t(tokens[t + 1])]);
      }
    }
    const double n = double(reward.size()) / 2;
    for (size_t i = 0; i < reward.size(); i += 2) {
      const double margin = reward[i] - reward[i + 1];
      out.loss += std::log(1 + std::exp(-margin)) / n;
      out.accuracy += (margin > 0) / n;
      out.chosen += reward[i] / n, out.rejected += reward[i + 1] / n;
    }
    return out;
  }
  // A model whose tensors are nobody else's.
  static TorchModel deep_copy(TorchModel model) {
    for (auto& parts : model.layers) {
      for (auto& value : parts[0].values) value = value.defined() ? value.detach().clone() : value;
    }
    model.body.embedding = model.body.embedding.detach().clone();
    model.body.head = model.body.embedding;
    return model;
  }

  struct Step {
    StepResult result;
    at::Tensor gradient;
  };
  Step step(StageRunner& runner, Leaf& leaf, const Batch& batch) {
    leaf.gradient.zero_();
    const auto result = runner.step(batch, {});
    EXPECT_TRUE(result.ok()) << result.error().message;
    return {result.ok() ? *result : StepResult{}, leaf.gradient.clone()};
  }
  std::unique_ptr<StageRunner> runner_of(const StageSpec& stage, Leaf& leaf) {
    return make_preference_stage(stage, {teacher_, student_, pool_, {&leaf}});
  }

  retort::test::TempFolder folder_;
  TorchModel teacher_, student_;
  ThreadPool pool_{2};
  int opened_ = 0;
};

TEST_F(PreferenceTest, LossAndGradientAreTheFormula) {
  const Batch batch = pairs(24);
  student_.body.embedding = student_.body.embedding.clone();  // its own, tied
  student_.body.head = student_.body.embedding;
  for (const Reference reference : {Reference::kTeacher, Reference::kStart}) {
    for (at::Tensor* value : {&student_.layers[1][0].values[0], &student_.body.embedding}) {
      SCOPED_TRACE(cat(int(reference), value == &student_.body.embedding ? " embedding" : " query"));
      Leaf leaf{value->requires_grad_(), at::zeros_like(*value), 1};
      const auto runner = runner_of(stage_of(reference, 0.3, 0.7), leaf);
      const TorchModel against = deep_copy(reference == Reference::kTeacher ? teacher_ : student_);
      // Away from the start, where all margins are 0.
      value->detach().add_(0.1 * at::randn_like(value->detach()));
      const Step got = step(*runner, leaf, batch);
      const Expected want = expected(student_, against, batch, 0.3);
      EXPECT_NEAR(got.result.loss, 0.7 * want.loss, 1e-10);
      EXPECT_NEAR(got.result.parts[0].value, want.loss, 1e-10);
      ASSERT_EQ(got.result.measures.size(), 3u);
      EXPECT_EQ(got.result.measures[0].value, want.accuracy);
      EXPECT_NEAR(got.result.measures[1].value, want.chosen, 1e-10);
      EXPECT_NEAR(got.result.measures[2].value, want.rejected, 1e-10);
      EXPECT_GT(std::fabs(want.loss - std::log(2.0)), 1e-3) << "the formula has something to say";
      const auto [given, measured] = fake::slopes(*value, got.gradient, [&] { return 0.7 * expected(student_, against, batch, 0.3).loss; }, 1e-6);
      EXPECT_GT(std::fabs(measured), 1e-6);
      EXPECT_NEAR(given, measured, 1e-5 * std::fabs(measured));
      value->requires_grad_(false);
    }
  }
}

TEST_F(PreferenceTest, AgainstItselfItStartsAtTheLogarithmOfTwo) {
  for (const Numeric numeric : {Numeric::kExact, Numeric::kFast}) {
    open(numeric);
    at::Tensor& query = student_.layers[1][0].values[0];
    Leaf leaf{query.requires_grad_(), at::zeros_like(query), 1};
    const Step got = step(*runner_of(stage_of(Reference::kStart), leaf), leaf, pairs(24));
    EXPECT_EQ(got.result.loss, std::log(2.0));
    EXPECT_EQ(got.result.measures[1].value, 0);
    EXPECT_GT(got.gradient.abs().max().item<double>(), 0);
  }
}

TEST_F(PreferenceTest, PaddingChangesNothing) {
  for (const Numeric numeric : {Numeric::kExact, Numeric::kFast}) {
    open(numeric);
    at::Tensor& query = student_.layers[1][0].values[0];
    Leaf leaf{query.requires_grad_(), at::zeros_like(query), 1};
    const auto runner = runner_of(stage_of(Reference::kTeacher), leaf);
    const Step shortest = step(*runner, leaf, pairs(20)), longer = step(*runner, leaf, pairs(57));
    EXPECT_EQ(shortest.result.loss, longer.result.loss);
    EXPECT_TRUE(shortest.gradient.equal(longer.gradient));
  }
}

TEST_F(PreferenceTest, ItsMemoryIsTheStudentAtTheStart) {
  open(Numeric::kFast);
  at::Tensor& query = student_.layers[1][0].values[0];
  Leaf leaf{query.requires_grad_(), at::zeros_like(query), 1, true, {{"query", TrainGroup::kProjection, true, 0, query.numel()}}};
  const auto runner = runner_of(stage_of(Reference::kStart), leaf);
  query.detach().add_(0.1 * at::randn_like(query.detach()));
  const double loss = step(*runner, leaf, pairs(24)).result.loss;
  const auto later = runner_of(stage_of(Reference::kStart), leaf);  // as a resumed run makes it, from the student as it is by then
  EXPECT_EQ(step(*later, leaf, pairs(24)).result.loss, std::log(2.0));
  const auto from = runner->memory(), to = later->memory();
  ASSERT_EQ(from.size(), 1u);
  EXPECT_EQ(from[0].name, "query");
  std::copy(from[0].value.begin(), from[0].value.end(), to[0].value.begin());
  EXPECT_EQ(step(*later, leaf, pairs(24)).result.loss, loss);
  EXPECT_TRUE(runner_of(stage_of(Reference::kTeacher), leaf)->memory().empty());
}

TEST_F(PreferenceTest, ThreadsChangeNothing) {
  open(Numeric::kFast);
  at::Tensor& query = student_.layers[1][0].values[0];
  Leaf leaf{query.requires_grad_(), at::zeros_like(query), 1};
  const Step two = step(*runner_of(stage_of(Reference::kTeacher), leaf), leaf, pairs(24));
  ThreadPool one(1);
  const auto runner = make_preference_stage(stage_of(Reference::kTeacher), {teacher_, student_, one, {&leaf}});
  const Step got = step(*runner, leaf, pairs(24));
  EXPECT_EQ(got.result.loss, two.result.loss);
  EXPECT_TRUE(got.gradient.equal(two.gradient));
}

}  // namespace
}  // namespace retort::train
