#include "eval/probes/probe.h"

#include <gtest/gtest.h>

#include <set>

#include "support/tiny_model.h"

namespace retort::probes {
namespace {

// A token a byte.
Source source(uint64_t seed = 1, std::string_view text = {}) {
  return *Source::make(*Tokenizer::from_json(test::byte_tokenizer_json(), R"({"eos_token": "~"})"), text, seed);
}

std::string text_of(const std::vector<int>& ids) { return {ids.begin(), ids.end()}; }

std::vector<Example> examples(const Cell& cell, int64_t count = 3, uint64_t seed = 1) {
  const auto made = make_examples(source(seed), cell, count);
  EXPECT_TRUE(made.ok()) << cell.task << ": " << (made.ok() ? "" : made.error().message);
  return made.ok() ? *made : std::vector<Example>{};
}

// A cell of every task that a tokenizer of bytes has room for.
std::vector<Cell> small_cells() {
  return {{"mqar", 96, 4}, {"needle", 900, 1}, {"needle", 1500, 6}, {"passkey", 500, 0}, {"copy", 300, 0}, {"phonebook", 600, 0}};
}

bool same(const Example& a, const Example& b) {
  if (a.questions.size() != b.questions.size()) return false;
  for (size_t q = 0; q < a.questions.size(); ++q) {
    if (a.questions[q].context != b.questions[q].context || a.questions[q].ids != b.questions[q].ids) return false;
  }
  return true;
}

TEST(Probes, FillTheLengthAndNoMore) {
  for (const Cell& cell : small_cells()) {
    for (const Example& example : examples(cell, 5)) {
      EXPECT_LE(example.tokens(), cell.length) << cell.task;
      EXPECT_GE(example.tokens(), cell.task == "mqar" ? 4 * cell.pairs : cell.length * 7 / 10) << cell.task;
    }
  }
}

// Every example is fitted by itself: words of other lengths make none much shorter than it could be.
TEST(Probes, NoExampleIsShortenedByAnother) {
  std::string text;
  for (int i = 0; i < 4000; ++i) text += std::string(size_t(1 + i % 17), 'w') + " ";
  const auto made = make_examples(source(1, text), {"copy", 400, 0}, 12);
  ASSERT_TRUE(made.ok());
  for (const auto& example : *made) EXPECT_GE(example.tokens(), 400 - 3 * 18);
}

TEST(Probes, TheSeedDecidesAndNothingElse) {
  for (const Cell& cell : small_cells()) {
    const auto three = examples(cell, 3), two = examples(cell, 2), other = examples(cell, 2, 2);
    for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(same(three[i], two[i])) << cell.task;
    EXPECT_FALSE(same(two[0], two[1])) << cell.task;
    EXPECT_FALSE(same(two[0], other[0])) << cell.task;
  }
}

TEST(Probes, EveryKeyOfMqarIsAskedForOnceAndItsValueStandsBehindItsFirst) {
  for (const Example& example : examples({"mqar", 96, 6})) {
    ASSERT_EQ(example.questions.size(), 6u);
    std::set<int> keys, values;
    for (const Continuation& question : example.questions) {
      const int key = question.context.back();
      const auto first = std::find(question.context.begin(), question.context.end(), key);
      ASSERT_LT(first + 1, question.context.end() - 1) << "the key is new";
      EXPECT_EQ(std::vector<int>{*(first + 1)}, question.ids);
      EXPECT_EQ(std::count(question.context.begin(), question.context.end(), question.ids[0]), 1) << "the value was given away";
      keys.insert(key);
      values.insert(question.ids[0]);
    }
    EXPECT_EQ(keys.size(), 6u);
    EXPECT_EQ(values.size(), 6u);
    for (const int value : values) EXPECT_EQ(keys.count(value), 0u);
  }
}

TEST(Probes, TheNeedleStandsInTheHaystackOnce) {
  for (const Example& example : examples({"needle", 1500, 6})) {
    ASSERT_EQ(example.questions.size(), 4u);
    for (const Continuation& question : example.questions) {
      const std::string context = text_of(question.context), answer = text_of(question.ids);
      const size_t at = context.find(" is:" + answer + ".");
      ASSERT_NE(at, std::string::npos) << answer;
      EXPECT_EQ(context.find(answer, at + 5), std::string::npos);
      const size_t name = context.rfind(" for ", at) + 5;
      const std::string key = context.substr(name, at - name);
      EXPECT_TRUE(context.ends_with("The special magic number for " + key + " mentioned in the provided text is")) << key;
    }
  }
}

TEST(Probes, ThePhonebookHasTheNumberBesideTheName) {
  for (const Example& example : examples({"phonebook", 600, 0})) {
    EXPECT_GT(example.pairs, 15);
    for (const Continuation& question : example.questions) {
      const std::string context = text_of(question.context), answer = text_of(question.ids);
      const std::string name = context.substr(context.rfind('\n') + 1);
      EXPECT_NE(context.find("\n" + name + answer + "\n"), context.size()) << name;
      EXPECT_TRUE(context.starts_with(name + answer) || context.find("\n" + name + answer + "\n") != std::string::npos) << name;
    }
  }
}

TEST(Probes, PasskeyAndCopyAskForWhatWasThere) {
  for (const Example& example : examples({"passkey", 500, 0})) {
    const std::string context = text_of(example.questions[0].context), key = text_of(example.questions[0].ids);
    EXPECT_NE(context.find("The pass key is" + key + ". Remember it." + key + " is the pass key.\n"), std::string::npos);
  }
  for (const Example& example : examples({"copy", 300, 0})) {
    const std::string context = text_of(example.questions[0].context), rest = text_of(example.questions[0].ids);
    const std::string first = context.substr(context.rfind('\n') + 1);
    EXPECT_EQ(context, first + rest + "\n\n" + first + rest + "\n\n" + first);
  }
}

TEST(Probes, TheHaystackIsTheTextThatIsGiven) {
  const auto made = make_examples(source(1, "One thing. Another \"thing!\" And  a\nthird?"), {"needle", 700, 1}, 1);
  ASSERT_TRUE(made.ok()) << made.error().message;
  const std::string context = text_of((*made)[0].questions[0].context);
  EXPECT_NE(context.find("Another \"thing!\" And a third? One thing."), std::string::npos) << context;
}

TEST(Probes, WhatCannotBeMadeIsAnError) {
  EXPECT_FALSE(make_examples(source(1, "word"), {"copy", 64, 0}, 1).ok());
  for (const Cell& cell : std::vector<Cell>{{"mqar", 15, 4}, {"mqar", 4000, 200}, {"needle", 100, 1}, {"needle", 100000, 5000},
                                            {"passkey", 60, 0}, {"copy", 8, 0}, {"phonebook", 90, 0}, {"nedle", 900, 1}}) {
    EXPECT_FALSE(make_examples(source(), cell, 1).ok()) << cell.task << " " << cell.length;
  }
  EXPECT_NE(find_task("nedle").error().message.find("needle"), std::string::npos);
}

}  // namespace
}  // namespace retort::probes
