#include "train/data.h"

#include <set>

#include <gtest/gtest.h>

#include "support/fake_encoders.h"
#include "test_files.h"

namespace retort::train {
namespace {

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
  TokenStream stream(text, fake::encoders(), {3, 256, 1, 0, 256});
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
  TokenStream stream(text, fake::encoders(), {1, 64, 5, 0, 256});
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
  TokenStream straight(text, fake::encoders(), options);
  for (int n = 0; n < 300; ++n) {  // more than an epoch
    const auto cursor = nlohmann::json::parse(straight.cursor().dump());
    const auto batch = straight.next();
    ASSERT_TRUE(batch.ok());
    if (n % 17) continue;
    TokenStream resumed(text, fake::encoders(), options);
    ASSERT_TRUE(resumed.restore(cursor).ok());
    const auto again = resumed.next();
    EXPECT_EQ(again->tokens, batch->tokens) << n;
    EXPECT_EQ(again->starts, batch->starts) << n;
  }
  EXPECT_GE(straight.epoch(), 1);
  TokenStream other(text, fake::encoders(), options);
  for (const char* bad : {"{}", "[]", R"({"order":[[0,0,0]],"batches":0,"rows":[[99999,0],[0,0]]})", R"({"order":[[0,0,0]],"batches":0,"rows":[]})",
                          R"({"order":[[0,-1,0]],"batches":0,"rows":[[0,0],[0,0]]})", R"({"order":[[0,999,0]],"batches":0,"rows":[[0,0],[0,0]]})",
                          R"({"order":[],"batches":0,"rows":[[0,0],[0,0]]})", R"({"order":[[0,0,0]],"batches":"x","rows":[[0,0],[0,0]]})"}) {
    EXPECT_FALSE(other.restore(nlohmann::json::parse(bad)).ok()) << bad;
  }
}

TEST(TokenStream, SeedsDiffer) {
  const auto text = text_of(documents(40));
  TokenStream a(text, fake::encoders(), {1, 100, 1, 0, 256}), b(text, fake::encoders(), {1, 100, 2, 0, 256});
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
  TokenStream stream(text_of(documents(60)), {encode, {}}, {2, 120, 1, 3, 1 << 30});
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
  TokenStream stream(text_of(documents(5)), fake::encoders(), {1, 32, 1, 0, 50});
  const auto batch = stream.next();
  ASSERT_FALSE(batch.ok());
  EXPECT_NE(batch.error().message.find("do not belong together"), std::string::npos);
}

TEST(TokenStream, TextWithoutTokens) {
  TokenStream stream(text_of(documents(5)), {[](std::string_view) { return Result<std::vector<int32_t>>(std::vector<int32_t>{}); }, {}}, {1, 32, 1, 0, 50});
  EXPECT_FALSE(stream.next().ok());
}

// Two questions and answers; every conversation has letters of its own.
Document conversation(int n, size_t length) {
  const std::string letters(length, char('a' + n % 26));
  return {{}, cat("chats:", n + 1), {{"user", "Q" + letters}, {"assistant", "A" + letters}, {"user", "R"}, {"assistant", cat("B", n)}}};
}

std::string text_at(const Batch& batch, size_t first, size_t count) {
  std::string out;
  for (size_t i = first; i < first + count; ++i) out += char(batch.tokens[i]);
  return out;
}

TEST(Chats, EveryLabelOnceAndAfterWhatItAnswers) {
  constexpr int kChats = 30, kSeq = 120;
  std::vector<Document> docs;
  for (int n = 0; n < kChats; ++n) docs.push_back(conversation(n, 3 + size_t(n)));  // all of them fit into a row
  const auto text = text_of(docs, 0);
  TokenStream stream(text, fake::encoders(), {2, kSeq, 1, 0, 256});
  std::map<std::string, int> seen;  // last answers
  int64_t labels = 0, expected = 0;
  for (const auto& d : docs) expected += int64_t(d.messages[1].content.size() + d.messages[3].content.size()) + 2;
  while (stream.epoch() == 0) {
    const auto batch = stream.next();
    ASSERT_TRUE(batch.ok());
    ASSERT_EQ(batch->labels.size(), batch->tokens.size());
    if (stream.epoch() == 0) labels += std::count(batch->labels.begin(), batch->labels.end(), 1);
    for (size_t s = 0; s < batch->starts.size(); ++s) {
      const size_t first = size_t(batch->starts[s]), end = s + 1 < batch->starts.size() ? size_t(batch->starts[s + 1]) : batch->tokens.size();
      EXPECT_EQ(text_at(*batch, first, 1), "<") << "every sequence begins with its conversation";
      EXPECT_FALSE(batch->labels[first]);
      std::string answers;
      for (size_t i = first; i < end; ++i) {
        if (batch->labels[i]) answers += batch->tokens[i] == fake::kEndOfTurn ? '|' : char(batch->tokens[i]);
      }
      // Of answers that are there whole: "Aaaa|B7|", or what is left of it after an earlier row.
      if (const auto at = answers.rfind('B'); at != std::string::npos && answers.back() == '|') ++seen[answers.substr(at)];
      EXPECT_EQ(answers.find_first_of("QR<>"), std::string::npos) << answers;
    }
  }
  for (const auto& [answer, times] : seen) EXPECT_LE(times, 2) << answer << ": once in an epoch, and the second had begun";
  EXPECT_LE(labels, expected);
  EXPECT_GT(labels, expected / 2);
}

// By hand.
TEST(Chats, AConversationThatARowCutsIsTakenUpWithItsBeginning) {
  const Document one{{}, "chats:1", {{"user", "0123456789"}, {"assistant", "abcdefghi"}}};  // 6 + 10 + 11 + 9 + 1 = 37 tokens, the answer's from 27
  TokenStream stream(text_of({one}, 0), fake::encoders(), {1, 40, 1, 0, 256});
  const auto a = stream.next(), b = stream.next(), c = stream.next();
  ASSERT_TRUE(a.ok() && b.ok() && c.ok());
  EXPECT_EQ(a->starts, (std::vector<int32_t>{0, 37}));
  EXPECT_EQ(std::count(a->labels.begin(), a->labels.end(), 1), 10);
  EXPECT_TRUE(a->labels[27] && a->labels[36] && !a->labels[26] && !a->labels[37]);
  // 3 tokens of the second epoch were in the first row, none of them a label: the second row has it whole.
  EXPECT_EQ(b->starts, (std::vector<int32_t>{0, 37}));
  EXPECT_EQ(text_at(*b, 0, 16), "<user>0123456789");
  EXPECT_EQ(b->labels, a->labels);
  EXPECT_EQ(c->labels, a->labels);
}

TEST(Chats, LabelsThatWereCutAreTakenUpOnceEach) {
  const Document one{{}, "chats:1", {{"user", "01234"}, {"assistant", "abcdefghi"}}};  // 32 tokens, the answer's from 22
  TokenStream stream(text_of({one}, 0), fake::encoders(), {1, 60, 1, 0, 256});
  const auto a = stream.next(), b = stream.next();
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(a->starts, (std::vector<int32_t>{0, 32}));
  EXPECT_EQ(std::count(a->labels.begin() + 32, a->labels.end(), 1), 6) << "of the second: a to f";
  EXPECT_EQ(b->starts[1], 32);
  EXPECT_EQ(std::count(b->labels.begin(), b->labels.begin() + 32, 1), 4) << "g, h, i and the end of the turn";
  EXPECT_TRUE(b->labels[28] && !b->labels[27]);
}

TEST(Chats, LongerThanARow) {
  Document one{{}, "chats:1", {}};
  for (int turn = 0; turn < 8; ++turn) {
    one.messages.push_back({"user", cat("question ", turn)});
    one.messages.push_back({"assistant", cat("answer ", turn, " ", std::string(size_t(5 * turn), 'x'))});
  }
  const auto whole = *fake::chat_as_ids(one.messages);
  int64_t expected = 0;
  for (const auto& [first, last] : whole.answers) expected += int64_t(last - first);
  for (const int seq : {48, 64, 100, 150}) {
    ASSERT_GT(whole.ids.size(), size_t(seq));
    TokenStream stream(text_of({one}, 0), fake::encoders(), {1, seq, 1, 0, 256});
    int64_t labels = 0, rows = 0;
    while (stream.epoch() == 0) {
      const auto batch = stream.next();
      ASSERT_TRUE(batch.ok());
      // Without what is the next epoch's: it has a start of its own, unless the row is all its own.
      const bool last = stream.epoch() > 0;
      const size_t own = !last ? batch->tokens.size() : batch->starts.size() > 1 ? size_t(batch->starts[1]) : 0;
      labels += std::count(batch->labels.begin(), batch->labels.begin() + std::ptrdiff_t(own), 1);
      ++rows;
    }
    EXPECT_EQ(labels, expected) << seq;
    EXPECT_LE(rows, int64_t(whole.ids.size()) / (seq / 2) + 2) << "half of every row is new";
  }
}

TEST(Chats, BesideTextAllOfWhichIsLabels) {
  auto docs = documents(6);
  for (int n = 0; n < 6; ++n) docs.push_back(conversation(n, 10));
  TokenStream stream(text_of(docs, 0), fake::encoders(), {2, 120, 1, 2, 256});
  bool text_only = false, mixed = false;
  for (int n = 0; n < 40; ++n) {
    const auto batch = stream.next();
    ASSERT_TRUE(batch.ok());
    (batch->labels.empty() ? text_only : mixed) = true;
    for (size_t s = 0; s < batch->starts.size() && !batch->labels.empty(); ++s) {
      const size_t first = size_t(batch->starts[s]), end = s + 1 < batch->starts.size() ? size_t(batch->starts[s + 1]) : batch->tokens.size();
      if (batch->tokens[first] == '<') continue;
      EXPECT_EQ(std::count(batch->labels.begin() + std::ptrdiff_t(first), batch->labels.begin() + std::ptrdiff_t(end), 0), 0);
    }
  }
  EXPECT_TRUE(text_only && mixed) << "both are tested";
}

TEST(Chats, RestoresToTheToken) {
  auto docs = documents(5);
  for (int n = 0; n < 20; ++n) docs.push_back(conversation(n, size_t(7 * n)));
  for (size_t d = 0; d < docs.size(); ++d) docs[d].source = int(d % 3);
  auto weighted = TrainingText::from_documents(docs, 0, {1, 3, 0.5});
  ASSERT_TRUE(weighted.ok());
  const auto text = std::make_shared<const TrainingText>(std::move(*weighted));
  const StreamOptions options{3, 90, 9, 3, 256};
  TokenStream straight(text, fake::encoders(), options);
  for (int n = 0; n < 120; ++n) {
    const auto cursor = nlohmann::json::parse(straight.cursor().dump());
    const auto batch = straight.next();
    ASSERT_TRUE(batch.ok());
    TokenStream resumed(text, fake::encoders(), options);
    ASSERT_TRUE(resumed.restore(cursor).ok());
    const auto again = resumed.next();
    ASSERT_EQ(again->tokens, batch->tokens) << n;
    ASSERT_EQ(again->starts, batch->starts) << n;
    ASSERT_EQ(again->labels, batch->labels) << n;
  }
  EXPECT_GT(straight.epoch(), 1);
}

TEST(Sources, WeightsAreSharesOfTheTokens) {
  std::vector<Document> docs;
  for (int d = 0; d < 60; ++d) docs.push_back({std::string(size_t(40 + d), d % 2 ? 'b' : 'a'), cat("m:", d), {}, {}, d % 2});
  auto weighted = TrainingText::from_documents(docs, 0, {1, 3});
  ASSERT_TRUE(weighted.ok());
  TokenStream stream(std::make_shared<const TrainingText>(std::move(*weighted)), fake::encoders(), {1, 64, 1, 0, 256});
  std::map<int, double> seen;
  for (int n = 0; n < 400; ++n) {
    const auto batch = stream.next();
    for (const int32_t id : batch->tokens) ++seen[id];
  }
  EXPECT_NEAR(seen['b'] / seen['a'], 3, 0.1);
}

TEST(Sources, HeldOutDocumentsAreWrittenInTheFormTheyAreReadIn) {
  std::vector<Document> docs = documents(10);
  for (int n = 0; n < 10; ++n) {
    docs.push_back(conversation(n, 4));
    docs.push_back(conversation(n, 5));
    docs.back().rejected = docs.back().messages;
    docs.back().rejected.back().content = "something else";
  }
  const auto text = text_of(docs, 0.5);
  test::TempFolder folder;
  ASSERT_TRUE(text->write_held_out(folder / "held.jsonl").ok());
  const auto held = TrainingText::load({{folder / "held.jsonl"}}, 0);
  ASSERT_TRUE(held.ok()) << held.error().message;
  ASSERT_EQ(held->train().size(), text->held_out().size());
  int pairs = 0, chats = 0;
  for (size_t d = 0; d < held->train().size(); ++d) {
    const Document &read = held->train()[d], &written = text->held_out()[d];
    EXPECT_EQ(read.text, written.text);
    ASSERT_EQ(read.messages.size(), written.messages.size());
    ASSERT_EQ(read.rejected.size(), written.rejected.size());
    for (size_t m = 0; m < read.messages.size(); ++m) EXPECT_EQ(read.messages[m].content, written.messages[m].content);
    for (size_t m = 0; m < read.rejected.size(); ++m) EXPECT_EQ(read.rejected[m].content, written.rejected[m].content);
    pairs += read.is_pair(), chats += !read.messages.empty() && !read.is_pair();
  }
  EXPECT_GT(pairs, 0);
  EXPECT_GT(chats, 0);
}

TEST(Sources, HaveAWeightEachOrNone) {
  test::TempFolder folder;
  test::write_file(folder / "a.jsonl", "{\"text\": \"plain\"}\n");
  test::write_file(folder / "b.jsonl", "{\"prompt\": \"p\", \"response\": \"r\"}\n{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"d\"}\n");
  const std::string a = folder / "a.jsonl", b = folder / "b.jsonl";
  const auto weighted = TrainingText::load({a, {b, 2}}, 0), plain = TrainingText::load({a, b}, 0), all = TrainingText::load({a, {b, 2}}, 0.9999);
  ASSERT_TRUE(weighted.ok() && plain.ok());
  EXPECT_EQ(weighted->weights(), (std::vector<double>{1, 2}));
  EXPECT_TRUE(plain->weights().empty());
  EXPECT_NE(weighted->hash(), plain->hash());
  EXPECT_EQ(weighted->train().size(), 3u);
  EXPECT_TRUE(weighted->train()[2].is_pair() && weighted->train()[2].source == 1);
  ASSERT_FALSE(all.ok());
  EXPECT_NE(all.error().message.find("it has a weight, but no document to train on is left of it"), std::string::npos) << all.error().message;
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
    const auto text = TrainingText::load({{folder / name}}, 0.1);
    ASSERT_FALSE(text.ok()) << name;
    EXPECT_EQ(text.error().code, ErrorCode::kInvalidInput) << name;
    EXPECT_NE(text.error().message.find(name), std::string::npos) << text.error().message;
    EXPECT_EQ(text.error().message.find('\n'), std::string::npos) << text.error().message;
  }
  EXPECT_FALSE(TrainingText::load({}, 0.1).ok());
}

}  // namespace
}  // namespace retort::train
