#include "eval/tasks/examples.h"

#include <gtest/gtest.h>

namespace retort::harness {
namespace {

Task one_task(const std::string& name) { return find_tasks({name})->front(); }

std::vector<Document> numbered(size_t count) {
  std::vector<Document> out(count);
  for (size_t i = 0; i < count; ++i) {
    out[i].row = {{"n", i}};
    out[i].example = cat(i, " ");
  }
  return out;
}

TEST(Examples, SourceIsTheHarnessesRule) {
  const auto source = [](const char* task, const char* asked = "") { return example_source(one_task(task), asked); };
  EXPECT_EQ(source("arc_easy").split, "train");
  EXPECT_FALSE(source("arc_easy").leave_out_document);
  EXPECT_TRUE(source("hellaswag").leave_out_document);   // no test split, none declared: "the same"
  EXPECT_EQ(source("lambada_openai").split, "test");
  EXPECT_FALSE(source("lambada_openai").leave_out_document);
  EXPECT_EQ(source("lambada_standard").split, "validation");
  EXPECT_EQ(source("mmlu").split, "dev");
  EXPECT_EQ(source("arc_easy", "validation").split, "validation");
  EXPECT_FALSE(source("hellaswag", "validation").leave_out_document);
  EXPECT_TRUE(source("arc_easy", "test").leave_out_document);
}

// random.Random(1234).sample(range(2251), 5), twice.
TEST(Examples, EveryDocumentMovesTheGenerator) {
  const auto pool = numbered(2251);
  ExampleSampler sampler(pool, 5, false, false);
  EXPECT_EQ(*sampler.draw(pool[0], "t"), "1805 478 30 371 143 ");
  EXPECT_EQ(*sampler.draw(pool[1], "t"), "343 403 1452 969 71 ");
}

// One more is drawn, and the document itself dropped.
TEST(Examples, TheDocumentItselfIsLeftOut) {
  const auto pool = numbered(40398);
  ExampleSampler other(pool, 5, false, true), itself(pool, 5, false, true);
  EXPECT_EQ(*other.draw(pool[0], "t"), "28883 7657 490 5940 38156 ");
  const std::string without = *itself.draw(pool[7657], "t");
  EXPECT_TRUE(without.starts_with("28883 490 5940 38156 ")) << without;
  EXPECT_EQ(*other.draw(pool[1], "t"), *itself.draw(pool[2], "t"));  // both drew six
}

TEST(Examples, CopiesOfTheDocumentAreDrawnAgain) {
  auto pool = numbered(4);
  pool[1] = pool[2] = pool[0];
  pool.push_back({});
  pool.back().row = {{"n", 9}};
  pool.back().example = "9 ";
  ExampleSampler sampler(pool, 2, false, true);
  for (int i = 0; i < 20; ++i) {
    const std::string drawn = *sampler.draw(pool[0], "t");
    EXPECT_TRUE(drawn == "3 9 " || drawn == "9 3 ") << drawn;
  }
}

TEST(Examples, TheFirstOnesAreNotDrawn) {
  const auto pool = numbered(5);
  ExampleSampler sampler(pool, 3, true, false);
  EXPECT_EQ(*sampler.draw(pool[0], "t"), "0 1 2 ");
  EXPECT_EQ(*sampler.draw(pool[4], "t"), "0 1 2 ");
}

TEST(Examples, TooFewToDrawFromIsAnError) {
  const auto pool = numbered(5);
  EXPECT_TRUE(ExampleSampler(pool, 5, false, false).draw(pool[0], "t").ok());
  EXPECT_FALSE(ExampleSampler(pool, 5, false, true).draw(pool[0], "t").ok());
  EXPECT_FALSE(ExampleSampler(pool, 6, true, false).draw(pool[0], "t").ok());
}

}  // namespace
}  // namespace retort::harness
