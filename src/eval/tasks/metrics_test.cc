#include "eval/tasks/metrics.h"

#include <gtest/gtest.h>

#include <cmath>

#include "eval/tasks/comparison.h"
#include "eval/tasks/python_random.h"

namespace retort::harness {
namespace {

using Value = Metric::Value;
using Mean = Metric::Mean;

std::vector<Sample> samples(std::initializer_list<double> values, int64_t weight = 1) {
  std::vector<Sample> out;
  for (const double v : values) out.push_back({v, weight});
  return out;
}

TEST(Metrics, TheFirstOfEqualChoicesWins) {
  Document document;
  document.choices = {"ab", "abcd", "\xc3\xa9\xc3\xa9"};  // two, four and two characters
  const std::vector<ContinuationScore> scores = {{-4, false}, {-4, false}, {-5, false}};
  document.gold = 0;
  EXPECT_EQ(sample_metric(Value::kBestChoice, document, scores).value, 1);
  EXPECT_EQ(sample_metric(Value::kBestChoicePerCharacter, document, scores).value, 0);
  document.gold = 1;
  EXPECT_EQ(sample_metric(Value::kBestChoice, document, scores).value, 0);
  EXPECT_EQ(sample_metric(Value::kBestChoicePerCharacter, document, scores).value, 1);
}

TEST(Metrics, CharactersAreCountedNotBytes) {
  Document document;
  document.choices = {"\xc3\xa9\xc3\xa9\xc3\xa9\xc3\xa9", "abcde"};  // 4 characters in 8 bytes, 5 in 5
  document.gold = 1;
  EXPECT_EQ(sample_metric(Value::kBestChoicePerCharacter, document, std::vector<ContinuationScore>{{-8, false}, {-8, false}}).value, 1);
}

TEST(Metrics, TrueMassAndGreedy) {
  Document document;
  document.true_choices = {true, false, true};
  const std::vector<ContinuationScore> scores = {{std::log(0.2), false}, {std::log(0.5), true}, {std::log(0.1), false}};
  EXPECT_NEAR(sample_metric(Value::kTrueMass, document, scores).value, 0.3 / 0.8, 1e-12);
  EXPECT_EQ(sample_metric(Value::kGreedy, document, scores).value, 0);
}

TEST(Metrics, WordsAndBytesAreThoseOfThePage) {
  Document document;
  document.row = {{"page", " a b\xc3\xa9 "}};
  const std::vector<ContinuationScore> scores = {{-3, false}};
  EXPECT_EQ(sample_metric(Value::kPerWord, document, scores).weight, 4);
  EXPECT_EQ(sample_metric(Value::kPerByte, document, scores).weight, 7);
}

// Numbers of lm-evaluation-harness 0.4.13: mean_stderr, bootstrap_stderr(perplexity, iters=2000), weighted_perplexity, bits_per_byte.
TEST(Metrics, AggregatesAreTheHarnesses) {
  ThreadPool pool{2};
  const auto mean = aggregate(Mean::kMean, samples({1, 0, 1, 1, 0}), pool);
  EXPECT_NEAR(mean.value, 0.6, 1e-12);
  EXPECT_NEAR(*mean.error, 0.24494897427831783, 1e-12);
  const auto perplexity = aggregate(Mean::kPerplexity, samples({-0.5, -3.25, -1.75, -2.0, -0.125, -4.5, -1.0}), pool, 2000);
  EXPECT_NEAR(perplexity.value, 6.5208191203301125, 1e-9);
  EXPECT_NEAR(*perplexity.error, 4.562332411072762, 1e-9);
  const std::vector<Sample> pages = {{-30, 10}, {-50.5, 22}};
  EXPECT_NEAR(aggregate(Mean::kWeightedPerplexity, pages, pool).value, 12.374340325455691, 1e-9);
  EXPECT_NEAR(aggregate(Mean::kBitsPerByte, pages, pool).value, 3.6292797122362987, 1e-9);
  EXPECT_FALSE(aggregate(Mean::kBitsPerByte, pages, pool).error);
  EXPECT_FALSE(aggregate(Mean::kMean, samples({1}), pool).error);
}

// aggregate_subtask_metrics and pooled_sample_stderr.
TEST(Metrics, GroupsAreWeightedBySize) {
  const std::vector<Part> parts = {{{0.5, 0.05}, 100}, {{0.25, 0.1}, 20}, {{0.75, 0.2}, 5}};
  EXPECT_NEAR(pooled(parts).value, 0.47, 1e-12);
  EXPECT_NEAR(*pooled(parts).error, 0.04387015117291513, 1e-12);
  const std::vector<Part> single = {{{0.5, 0.05}, 100}, {{1, {}}, 1}};
  EXPECT_FALSE(pooled(single).error);
}

TEST(Comparison, EqualModelsHaveRatioOneWithoutError) {
  const auto same = samples({1, 0, 1, 1});
  for (const Mean mean : {Mean::kMean, Mean::kPerplexity, Mean::kWeightedPerplexity, Mean::kBitsPerByte}) {
    const auto ratio = paired_ratio(mean, same, same);
    EXPECT_NEAR(ratio.value, 1, 1e-12);
    EXPECT_NEAR(*ratio.error, 0, 1e-12);
  }
}

// The error is that of resampling documents, pairs kept.
TEST(Comparison, ErrorsAreThoseOfResampledDocuments) {
  ThreadPool pool{1};
  std::vector<Sample> student, teacher;
  PythonRandom random(3);
  for (int i = 0; i < 400; ++i) {
    const double hard = random.uniform();
    teacher.push_back({-2 - 3 * hard, 5});
    student.push_back({-2.2 - 3.1 * hard - 0.3 * random.uniform(), 5});
  }
  for (const Mean mean : {Mean::kMean, Mean::kPerplexity, Mean::kWeightedPerplexity}) {
    const auto ratio = paired_ratio(mean, student, teacher);
    double sum = 0, squares = 0;
    constexpr int kRounds = 2000;
    for (int round = 0; round < kRounds; ++round) {
      std::vector<Sample> a, b;
      for (size_t i = 0; i < student.size(); ++i) {
        const uint32_t pick = random.below(uint32_t(student.size()));
        a.push_back(student[pick]), b.push_back(teacher[pick]);
      }
      const double value = paired_ratio(mean, a, b).value;
      sum += value, squares += value * value;
    }
    const double deviation = std::sqrt(squares / kRounds - sum / kRounds * (sum / kRounds));
    EXPECT_NEAR(*ratio.error, deviation, 0.1 * deviation) << int(mean);  // 2,000 rounds estimate it to 2 %
  }
}

}  // namespace
}  // namespace retort::harness
