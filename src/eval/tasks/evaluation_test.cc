#include "eval/tasks/evaluation.h"

#include <gtest/gtest.h>

#include "support/tiny_model.h"
#include "tiny_model.h"

namespace retort::harness {
namespace {

constexpr size_t kDocuments = 300;  // more than share a prefix tree

// Two choices each, in letters that the tiny model has.
TaskRun run_of(Kind kind) {
  TaskRun out;
  out.task.name = "t", out.task.kind = kind;
  out.task.metrics = {{"acc", Metric::Value::kBestChoice, Metric::Mean::kMean, true}};
  for (size_t d = 0; d < kDocuments; ++d) {
    ScoredDocument& one = out.documents.emplace_back();
    one.requests = {{cat("Q", d), " YES"}, {cat("Q", d), cat(" NO", d % 7)}};
    one.document.choices = {" YES", " NO"};
    one.document.gold = int(d % 2);
  }
  return out;
}

RequestEncoder encoder(const std::string& config = R"({"eos_token": "~"})") {
  return RequestEncoder(*Tokenizer::from_json(test::byte_tokenizer_json(), config), {});
}

TEST(Evaluation, IdsAreThoseOfEveryRequestInOrder) {
  ThreadPool pool{2};
  const TaskRun run = run_of(Kind::kChoices);
  const auto encoded = encode_task(run, encoder(), pool);
  ASSERT_TRUE(encoded.ok()) << encoded.error().message;
  ASSERT_EQ(encoded->size(), 2u);
  size_t first = 0;
  for (const EncodedDocuments& some : *encoded) {
    ASSERT_EQ(some.continuations.size(), some.owners.size());
    for (size_t i = 0; i < some.owners.size(); ++i) {
      const auto expected = *encoder().encode(run.documents[first + some.owners[i].document].requests[some.owners[i].request], Kind::kChoices, "");
      EXPECT_EQ(some.continuations[i].context, expected[0].context);
      EXPECT_EQ(some.continuations[i].ids, expected[0].ids);
    }
    first += some.documents;
  }
  EXPECT_EQ(first, kDocuments);
  const auto refused = encode_task(run_of(Kind::kRolling), encoder("{}"), pool);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().message.rfind("t: document 1: the tokenizer has neither a BOS nor an EOS token", 0), 0u) << refused.error().message;
}

// Scoring takes the ids that were checked: it does not look at the text again.
TEST(Evaluation, TextIsEncodedOnce) {
  ThreadPool pool{1};
  const auto model = *Model::load(testing_support::tiny_files(testing_support::tiny_config().plan), WeightFormat::kF32, pool);
  Engine engine{model, pool};
  TaskRun run = run_of(Kind::kChoices), blank = run;
  const auto encoded = encode_task(run, encoder(), pool);
  ASSERT_TRUE(encoded.ok()) << encoded.error().message;
  for (ScoredDocument& one : blank.documents) {
    for (Request& request : one.requests) request = {};
  }
  int64_t done = 0;
  ASSERT_TRUE(score_task(run, engine, *encoded, {}, [&](int64_t n) { done = n; }).ok());
  EXPECT_EQ(done, int64_t(kDocuments));
  ASSERT_TRUE(score_task(blank, engine, *encoded, {}).ok());
  for (size_t d = 0; d < kDocuments; ++d) {
    ASSERT_EQ(run.documents[d].scores.size(), 2u);
    for (size_t r = 0; r < 2; ++r) {
      EXPECT_LT(run.documents[d].scores[r].log_likelihood, 0);
      EXPECT_EQ(run.documents[d].scores[r].log_likelihood, blank.documents[d].scores[r].log_likelihood) << d;
    }
  }
  EXPECT_EQ(run.estimates[0].value, blank.estimates[0].value);
}

}  // namespace
}  // namespace retort::harness
