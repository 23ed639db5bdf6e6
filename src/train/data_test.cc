#include "train/data.h"

#include <set>

#include <gtest/gtest.h>

#include "test_files.h"

namespace retort::train {
namespace {

Result<std::vector<int32_t>> bytes_as_ids(std::string_view text) {
  std::vector<int32_t> ids;
  for (unsigned char c : text) ids.push_back(c);
  return ids;
}

std::vector<Document> documents(int count, size_t size = 700) {
  std::vector<Document> out;
  for (int d = 0; d < count; ++d) {
    std::string text = cat("Document ", d, ".");
    while (text.size() < size + size_t(d % 7) * 100) text += cat("\n\nParagraph ", text.size(), " of ", d, " has words in it.");
    out.push_back({text, cat("memory:", d + 1)});
  }
  return out;
}

std::shared_ptr<const TrainingText> text_of(std::vector<Document> docs, double held_out = 0.1) {
  auto text = TrainingText::from_documents(std::move(docs), held_out);
  EXPECT_TRUE(text.ok());
  return std::make_shared<const TrainingText>(std::move(*text));
}

TEST(TrainingText, ItsHashIsWhatOldRunsHaveWritten) {
  EXPECT_EQ(text_of({{"one", "a:1"}, {"two", "a:2"}})->hash(), "3da7b75d9083a0d7");
}

TEST(TrainingText, SplitsByDocumentAlwaysTheSameWay) {
  auto docs = documents(400);
  const auto a = text_of(docs), b = text_of(docs);
  EXPECT_EQ(a->train().size() + a->held_out().size(), 400u);
  EXPECT_GT(a->held_out().size(), 15u);
  EXPECT_LT(a->held_out().size(), 80u);
  std::set<std::string> held;
  for (const auto& d : a->held_out()) held.insert(d.text);
  for (const auto& d : a->train()) EXPECT_EQ(held.count(d.text), 0u);
  ASSERT_EQ(a->held_out().size(), b->held_out().size());
  for (size_t i = 0; i < a->held_out().size(); ++i) EXPECT_EQ(a->held_out()[i].text, b->held_out()[i].text);
  EXPECT_EQ(a->hash(), b->hash());
  docs[7].text[3] ^= 1;
  EXPECT_NE(text_of(docs)->hash(), a->hash());
}

TEST(TrainingText, AFewDocumentsStillGiveBothSides) {
  for (int count : {1, 2, 3}) {
    const auto text = text_of(documents(count), 0.02);
    EXPECT_GE(text->train().size(), 1u) << count;
    EXPECT_GE(text->held_out().size(), 1u) << count;
  }
  EXPECT_TRUE(text_of(documents(3), 0)->held_out().empty());
}

TEST(TokenStream, RowsAreFullAndStartsAreWhereTextChanges) {
  const auto text = text_of(documents(50));
  TokenStream stream(text, bytes_as_ids, {3, 256, 1, 0, 256});
  for (int n = 0; n < 20; ++n) {
    const auto batch = stream.next();
    ASSERT_TRUE(batch.ok());
    ASSERT_EQ(batch->tokens.size(), 3u * 256);
    EXPECT_TRUE(std::is_sorted(batch->starts.begin(), batch->starts.end()));
    for (int r = 0; r < 3; ++r) EXPECT_TRUE(std::count(batch->starts.begin(), batch->starts.end(), r * 256));
    for (size_t i = 0; i < batch->tokens.size(); ++i) {
      // Every document here begins with "D", and has no other.
      if (batch->tokens[i] != 'D') continue;
      EXPECT_TRUE(std::count(batch->starts.begin(), batch->starts.end(), int(i)));
    }
  }
}

TEST(TokenStream, AnEpochHasEveryTokenOnce) {
  const auto text = text_of(documents(30, 20000));  // long enough to be cut into passages
  std::map<int, int64_t> expected, seen;
  int64_t total = 0;
  for (const auto& d : text->train()) {
    for (unsigned char c : d.text) ++expected[c], ++total;
  }
  TokenStream stream(text, bytes_as_ids, {1, 64, 5, 0, 256});
  int64_t taken = 0;
  for (; taken + 64 <= total; taken += 64) {
    const auto batch = stream.next();
    ASSERT_TRUE(batch.ok());
    for (int32_t id : batch->tokens) ++seen[id];
    EXPECT_EQ(stream.epoch(), 0);
  }
  int64_t missing = 0;
  for (const auto& [id, count] : expected) missing += std::abs(count - seen[id]);
  EXPECT_EQ(missing, total - taken) << "only the last part of a row is left";
}

TEST(TokenStream, RestoresToTheToken) {
  const auto text = text_of(documents(40));
  const StreamOptions options{2, 100, 9, 3, 256};
  TokenStream straight(text, bytes_as_ids, options);
  for (int n = 0; n < 300; ++n) {  // more than an epoch
    const auto cursor = nlohmann::json::parse(straight.cursor().dump());
    const auto batch = straight.next();
    ASSERT_TRUE(batch.ok());
    if (n % 17) continue;
    TokenStream resumed(text, bytes_as_ids, options);
    ASSERT_TRUE(resumed.restore(cursor).ok());
    const auto again = resumed.next();
    EXPECT_EQ(again->tokens, batch->tokens) << n;
    EXPECT_EQ(again->starts, batch->starts) << n;
  }
  EXPECT_GE(straight.epoch(), 1);
  TokenStream other(text, bytes_as_ids, options);
  for (const char* bad : {"{}", "[]", R"({"epoch":0,"next":0,"batches":0,"rows":[[99999,0],[0,0]]})", R"({"epoch":-1,"next":0,"batches":0,"rows":[]})"}) {
    EXPECT_FALSE(other.restore(nlohmann::json::parse(bad)).ok()) << bad;
  }
}

TEST(TokenStream, SeedsDiffer) {
  const auto text = text_of(documents(40));
  TokenStream a(text, bytes_as_ids, {1, 100, 1, 0, 256}), b(text, bytes_as_ids, {1, 100, 2, 0, 256});
  EXPECT_NE(a.next()->tokens, b.next()->tokens);
}

TEST(TokenStream, EveryNthBatchRepeats) {
  // Ids that never repeat by themselves: what occurs twice in a row was pasted.
  auto counter = std::make_shared<int32_t>(0);
  const auto encode = [counter](std::string_view text) -> Result<std::vector<int32_t>> {
    std::vector<int32_t> ids(text.size());
    for (auto& id : ids) id = (*counter)++;
    return ids;
  };
  TokenStream stream(text_of(documents(60)), encode, {2, 120, 1, 3, 1 << 30});
  for (int n = 0; n < 12; ++n) {
    const auto batch = stream.next();
    ASSERT_TRUE(batch.ok());
    for (int r = 0; r < 2; ++r) {
      std::set<int32_t> distinct(batch->tokens.begin() + r * 120, batch->tokens.begin() + (r + 1) * 120);
      if (n % 3 == 2) {
        EXPECT_LE(distinct.size(), 100u);
        EXPECT_GE(distinct.size(), 60u);
      } else {
        EXPECT_EQ(distinct.size(), 120u);
      }
    }
    if (n % 3 == 2) {
      EXPECT_EQ(batch->starts, (std::vector<int32_t>{0, 120}));
    }
  }
}

TEST(TokenStream, ATokenizerThatDoesNotFit) {
  TokenStream stream(text_of(documents(5)), bytes_as_ids, {1, 32, 1, 0, 50});
  const auto batch = stream.next();
  ASSERT_FALSE(batch.ok());
  EXPECT_NE(batch.error().message.find("do not belong together"), std::string::npos);
}

TEST(TokenStream, TextWithoutTokens) {
  TokenStream stream(text_of(documents(5)), [](std::string_view) { return Result<std::vector<int32_t>>(std::vector<int32_t>{}); }, {1, 32, 1, 0, 50});
  EXPECT_FALSE(stream.next().ok());
}

TEST(Corpora, BadOnes) {
  test::TempFolder folder;
  test::write_file(folder / "empty.txt", "");
  test::write_file(folder / "blank.txt", " \n\n \n");
  test::write_file(folder / "empty.jsonl", "");
  test::write_file(folder / "binary.txt", std::string("\x7f""ELF\x00\x01\x02\xff\xfe", 9) + std::string(4000, '\x80'));
  test::write_file(folder / "broken.jsonl", "{\"text\": \"fine\"}\n{\"text\": \n");
  test::write_file(folder / "field.jsonl", "{\"body\": \"fine\"}\n");
  for (const char* name : {"empty.txt", "blank.txt", "empty.jsonl", "binary.txt", "broken.jsonl", "field.jsonl", "missing.jsonl"}) {
    const auto text = TrainingText::load({folder / name}, 0.1);
    ASSERT_FALSE(text.ok()) << name;
    EXPECT_EQ(text.error().code, ErrorCode::kInvalidInput) << name;
    EXPECT_NE(text.error().message.find(name), std::string::npos) << text.error().message;
    EXPECT_EQ(text.error().message.find('\n'), std::string::npos) << text.error().message;
  }
  EXPECT_FALSE(TrainingText::load({}, 0.1).ok());
}

}  // namespace
}  // namespace retort::train
