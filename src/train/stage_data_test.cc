// Stages with text of their own: what is held out stays unread, and how long an epoch is.
#include "train/stage_data.h"

#include <set>

#include <gtest/gtest.h>

#include "support/fake_encoders.h"
#include "test_files.h"

namespace retort::train {
namespace {

class StageDataTest : public ::testing::Test {
 protected:
  void write(const std::string& name, const std::vector<nlohmann::json>& lines) {
    std::string out;
    for (const auto& line : lines) out += line.dump() + "\n";
    test::write_file(folder_ / name, out);
  }
  static nlohmann::json text(int d) { return {{"text", cat("Text ", d, std::string(size_t(40 + d * 7 % 300), char('a' + d % 26)))}}; }
  static nlohmann::json chat(int d) { return {{"prompt", cat("What is ", d, "?")}, {"response", cat("It is ", d, std::string(size_t(d * 13 % 90), '.'))}}; }
  static nlohmann::json pair(int d) {
    return {{"prompt", cat("What is ", d, "?")}, {"chosen", cat("It is ", d, std::string(size_t(d * 13 % 90), '.'))}, {"rejected", "No."}};
  }
  Recipe recipe(const std::string& stages, const std::vector<std::string>& files, double held_out = 0.2) {
    auto parsed = parse_recipe(cat("name: a\nseed: 3\ndata: {held_out: ", held_out, "}\ndefaults: {lr: 1, seq: 64, batch: 2}\nstages:\n", stages), "a.yaml");
    EXPECT_TRUE(parsed.ok()) << parsed.error().message;
    for (const auto& file : files) parsed->data.train.push_back({folder_ / file});
    for (auto& stage : parsed->stages) {
      for (auto& source : stage.data) source.file = folder_ / source.file;
    }
    return *parsed;
  }
  StageData load(const Recipe& recipe) {
    auto data = StageData::load(recipe);
    EXPECT_TRUE(data.ok()) << data.error().message;
    return std::move(*data);
  }

  test::TempFolder folder_;
  ThreadPool pool_{2};
};

TEST_F(StageDataTest, WhatIsHeldOutIsReadByNoStage) {
  std::vector<nlohmann::json> all, others, pairs;
  for (int d = 0; d < 100; ++d) {
    all.push_back(text(d)), all.push_back(chat(d));
    others.push_back(text(d)), others.push_back(text(d + 1000)), others.push_back(chat(d));
    pairs.push_back(pair(d));
  }
  write("a.jsonl", all), write("b.jsonl", others), write("p.jsonl", pairs);
  const auto data = load(recipe("- {name: x, loss: ce, steps: 1}\n- {name: y, loss: ce, steps: 1, data: b.jsonl}\n"
                                "- {name: z, loss: dpo, steps: 1, data: [p.jsonl]}\n", {"a.jsonl"}));
  EXPECT_EQ(data.of(0), data.recipe());
  std::set<std::string> held;
  int held_chats = 0;
  for (const auto& d : data.recipe()->held_out()) {
    held.insert(d.messages.empty() ? d.text : d.messages.back().content + d.messages.front().content);
    held_chats += !d.messages.empty();
  }
  ASSERT_GT(held.size(), 10u);
  ASSERT_GT(held_chats, 5);
  for (const size_t stage : {1u, 2u}) {
    for (const auto& d : data.of(stage)->train()) {
      EXPECT_EQ(held.count(d.messages.empty() ? d.text : d.messages.back().content + d.messages.front().content), 0u) << d.where;
    }
    EXPECT_TRUE(data.of(stage)->held_out().empty());
  }
  EXPECT_EQ(data.of(1)->train().size(), 300 - held.size()) << "all else is there";
  EXPECT_EQ(data.of(2)->train().size(), size_t(100 - held_chats)) << "a pair has the conversation that was held out";
}

TEST_F(StageDataTest, TheTailOfAnOnlyTextIsReadByNoStage) {
  std::string book;
  for (int p = 0; p < 60; ++p) book += cat("Paragraph ", p, " of a book.\n\n");
  test::write_file(folder_ / "book.txt", book);
  test::write_file(folder_ / "copy.txt", book);
  const auto data = load(recipe("- {name: x, loss: ce, steps: 1, data: copy.txt}\n", {"book.txt"}));
  ASSERT_EQ(data.recipe()->held_out().size(), 1u);
  EXPECT_EQ(data.of(0)->train()[0].text, data.recipe()->train()[0].text);
}

TEST_F(StageDataTest, TheHashIsOfAllText) {
  write("a.jsonl", {text(1), text(2), text(3), text(4)});
  write("b.jsonl", {text(5), text(6)});
  const std::string own = "- {name: x, loss: ce, steps: 1}\n- {name: y, loss: ce, steps: 1, data: b.jsonl}\n", none = "- {name: x, loss: ce, steps: 1}\n";
  const auto before = load(recipe(own, {"a.jsonl"})).hash(), alone = load(recipe(none, {"a.jsonl"})).hash();
  EXPECT_EQ(alone, TrainingText::load({folder_ / "a.jsonl"}, 0.2)->hash()) << "as before there were such stages";
  EXPECT_NE(before, alone);
  EXPECT_EQ(load(recipe(own, {"a.jsonl"})).hash(), before);
  write("b.jsonl", {text(5), text(7)});
  EXPECT_NE(load(recipe(own, {"a.jsonl"})).hash(), before);
}

TEST_F(StageDataTest, TextThatAStageCannotUseIsNamed) {
  write("a.jsonl", {text(1), text(2), text(3), chat(4), pair(6)});
  write("c.jsonl", {chat(1)});
  const auto wrong = [&](const std::string& stages) {
    const auto data = StageData::load(recipe(stages, {"a.jsonl"}));
    return data.ok() ? std::string("it loads") : data.error().message;
  };
  EXPECT_EQ(wrong("- {name: z, loss: dpo, steps: 1, data: c.jsonl}\n"),
            "recipe: stage 'z' compares answers, but no line of its data has \"prompt\", \"chosen\" and \"rejected\"");
  EXPECT_NE(wrong("- {name: z, loss: ce, steps: 1, data: absent.jsonl}\n").find("absent.jsonl"), std::string::npos);
  const auto recipe_text = StageData::load(recipe("- {name: z, loss: ce, steps: 1}\n", {"a.jsonl"}, 0.5));
  ASSERT_TRUE(recipe_text.ok());
  std::vector<nlohmann::json> held;
  for (const auto& d : recipe_text->recipe()->held_out()) {
    if (d.messages.empty()) held.push_back({{"text", d.text}});
  }
  ASSERT_FALSE(held.empty());
  write("h.jsonl", held);
  const auto data = StageData::load(recipe("- {name: z, loss: ce, steps: 1, data: h.jsonl}\n", {"a.jsonl"}, 0.5));
  ASSERT_FALSE(data.ok());
  EXPECT_NE(data.error().message.find("h.jsonl: no text to train on: every document of it is held out"), std::string::npos) << data.error().message;
}

// Text alone takes as many tokens as it has; a row of its own for each conversation takes none twice; long ones and many in a row are taken up
// again, as the rows of a stream show, whose labels are each answer's tokens once.
TEST_F(StageDataTest, AnEpochIsTheTokensOfItsRows) {
  std::vector<nlohmann::json> texts, chats;
  int64_t tokens = 0;
  for (int d = 0; d < 50; ++d) texts.push_back(text(d)), chats.push_back(chat(d)), tokens += int64_t(text(d)["text"].get<std::string>().size());
  write("a.jsonl", texts), write("c.jsonl", chats);
  const Recipe r = recipe("- {name: x, loss: ce, epochs: 1, data: a.jsonl}\n- {name: y, loss: ce, epochs: 2.5, seq: 200, data: c.jsonl, batch: 1}\n"
                          "- {name: z, loss: ce, steps: 3}\n", {"a.jsonl"}, 0);
  const auto data = load(r);
  const auto sizes = epoch_sizes(r, data, fake::encoders(), 256, pool_);
  ASSERT_TRUE(sizes.ok()) << sizes.error().message;
  EXPECT_EQ((*sizes)[0], tokens);
  EXPECT_EQ((*sizes)[2], 0);
  EXPECT_EQ(budget_of(r.stages[0], tokens)->steps, (tokens + 127) / 128);
  // A stream of one row over the same conversations, to where every answer was a label: as long, up to its last row and to where
  // its order breaks conversations.
  const auto answers = [&] {
    int64_t sum = 0;
    for (const auto& d : data.of(1)->train()) {
      const auto ids = *fake::chat_as_ids(d.messages);
      for (const auto& [first, last] : ids.answers) sum += int64_t(last - first);
    }
    return sum;
  }();
  TokenStream stream(data.of(1), fake::encoders(), {1, 200, 9, 0, 256});
  int64_t labels = 0, rows = 0;
  for (; labels < answers && rows < 1000; ++rows) {
    const auto batch = stream.next();
    ASSERT_TRUE(batch.ok());
    for (const uint8_t label : batch->labels) labels += label;
  }
  EXPECT_NEAR(double((*sizes)[1]), 200.0 * double(rows), 0.08 * 200 * double(rows));
  int64_t once = 0;
  for (const auto& d : data.of(1)->train()) once += int64_t(fake::chat_as_ids(d.messages)->ids.size());
  EXPECT_GT((*sizes)[1], once + once / 20) << "rows that go on with a conversation read some of it again";
}

TEST_F(StageDataTest, EpochsOfPairsAreCountedInPairs) {
  std::vector<nlohmann::json> lines;
  for (int d = 0; d < 23; ++d) lines.push_back(pair(d)), lines.push_back(text(d));
  write("a.jsonl", lines);
  Recipe r = recipe("- {name: z, loss: dpo, epochs: 3, batch: 4, accumulate: 2}\n", {"a.jsonl"}, 0);
  const auto sizes = epoch_sizes(r, load(r), fake::encoders(), 256, pool_);
  ASSERT_TRUE(sizes.ok());
  EXPECT_EQ(*sizes, std::vector<int64_t>{23});
  EXPECT_EQ(budget_of(r.stages[0], 23)->steps, 9) << "69 pairs, 8 a step";
  r.stages[0].budget.steps = 5;
  EXPECT_EQ(budget_of(r.stages[0], 23)->steps, 5) << "the first reached";
  r.stages[0].budget = {0, 0, 0, 3};
  r.stages[0].schedule.warmup_steps = 10;
  const auto wrong = epoch_sizes(r, load(r), fake::encoders(), 256, pool_);
  ASSERT_FALSE(wrong.ok());
  EXPECT_EQ(wrong.error().message, "recipe: 'warmup_steps' is 10; stage 'z' has 9 steps in all");
}

}  // namespace
}  // namespace retort::train
