#include "train/preference_data.h"

#include <set>

#include <gtest/gtest.h>

#include "support/fake_encoders.h"

namespace retort::train {
namespace {

Document pair(const std::string& prompt, const std::string& chosen, const std::string& rejected) {
  return {{}, "pairs:1", {{"user", prompt}, {"assistant", chosen}}, {{"user", prompt}, {"assistant", rejected}}};
}

std::shared_ptr<const TrainingText> pairs_of(std::vector<Document> documents) {
  auto text = TrainingText::from_documents(std::move(documents), 0);
  EXPECT_TRUE(text.ok());
  return std::make_shared<const TrainingText>(std::move(*text));
}

std::string row_of(const Batch& batch, int row) {
  std::string out;
  for (int t = row * batch.seq; t < (row + 1) * batch.seq; ++t) {
    if (std::count(batch.starts.begin(), batch.starts.end(), t) && t > row * batch.seq) break;
    const char c = batch.tokens[size_t(t)] == fake::kEndOfTurn ? '|' : char(batch.tokens[size_t(t)]);
    out += batch.labels[size_t(t)] ? std::string("[") + c + "]" : std::string(1, c);
  }
  return out;
}

TEST(PairStream, ChosenAndRejectedBelowEachOther) {
  PairStream stream(pairs_of({pair("hi", "ab", "c"), {"plain text is not for it", "x:1"}}), fake::chat_as_ids, {1, 64, 32, 1, 256});
  const auto batch = stream.next();
  ASSERT_TRUE(batch.ok()) << batch.error().message;
  EXPECT_EQ(batch->rows, 2);
  EXPECT_EQ(batch->seq, 22) << "as long as the longer one";
  EXPECT_EQ(row_of(*batch, 0), "<user>hi<assistant>[a][b][|]");
  EXPECT_EQ(row_of(*batch, 1), "<user>hi<assistant>[c][|]");
  EXPECT_EQ(batch->starts, (std::vector<int32_t>{0, 22, 43}));
  EXPECT_EQ(batch->padding, 1);
  EXPECT_EQ(batch->labels[43], 0);
}

TEST(PairStream, OnlyTheLastAnswerCounts) {
  const std::vector<ChatMessage> before = {{"user", "q"}, {"assistant", "r"}};
  Document longer = pair("hi", "ab", "c");
  for (auto* messages : {&longer.messages, &longer.rejected}) messages->insert(messages->begin(), before.begin(), before.end());
  PairStream stream(pairs_of({longer}), fake::chat_as_ids, {1, 100, 60, 1, 256});
  const auto batch = stream.next();
  ASSERT_TRUE(batch.ok());
  EXPECT_EQ(row_of(*batch, 0), "<user>q<assistant>r|<user>hi<assistant>[a][b][|]");
}

TEST(PairStream, PromptsAreCutFromTheLeftAndTheWholeFromTheRight) {
  PairStream stream(pairs_of({pair("0123456789", "abcdefgh", "z")}), fake::chat_as_ids, {1, 20, 14, 1, 256});
  const auto batch = stream.next();
  ASSERT_TRUE(batch.ok());
  EXPECT_EQ(row_of(*batch, 0), "789<assistant>[a][b][c][d][e][f]");
  EXPECT_EQ(row_of(*batch, 1), "789<assistant>[z][|]");
}

TEST(PairStream, EveryPairOnceAnEpochAndOnWhereItWas) {
  std::vector<Document> documents;
  for (int d = 0; d < 12; ++d) documents.push_back(pair(cat("question ", char('a' + d)), "yes", "no"));
  const auto text = pairs_of(documents);
  const PairOptions options{2, 64, 32, 5, 256};
  PairStream straight(text, fake::chat_as_ids, options);
  std::set<std::string> prompts;
  for (int n = 0; n < 20; ++n) {
    PairStream resumed(text, fake::chat_as_ids, options);
    ASSERT_TRUE(resumed.restore(nlohmann::json::parse(straight.cursor().dump())).ok());
    const auto batch = straight.next(), again = resumed.next();
    ASSERT_TRUE(batch.ok() && again.ok());
    EXPECT_EQ(batch->tokens, again->tokens);
    for (const int row : {0, 2}) {
      if (n < 6) prompts.insert(row_of(*batch, row));
    }
  }
  EXPECT_EQ(prompts.size(), 12u);
  EXPECT_FALSE(straight.restore({{"epoch", 0}}).ok());
}

TEST(PairStream, ErrorsSayWhichPair) {
  const auto encode = [](const std::vector<ChatMessage>&) -> Result<ChatTokens> { return invalid("roles must alternate"); };
  PairStream stream(pairs_of({pair("a", "b", "c")}), encode, {1, 64, 32, 1, 256});
  const auto batch = stream.next();
  ASSERT_FALSE(batch.ok());
  EXPECT_EQ(batch.error().message, "pairs:1: roles must alternate");
}

}  // namespace
}  // namespace retort::train
