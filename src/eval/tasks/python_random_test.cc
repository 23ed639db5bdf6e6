#include "eval/tasks/python_random.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace retort::harness {
namespace {

using Indices = std::vector<uint32_t>;

Indices first_five(const Indices& all) { return {all.begin(), all.begin() + 5}; }

TEST(PythonRandom, FirstWordsAreThoseOfPython) {
  PythonRandom random(1234);
  EXPECT_EQ(random.next(), 4150886329u);
  EXPECT_EQ(random.next(), 3342196574u);
  EXPECT_EQ(random.next(), 1892932127u);
  EXPECT_EQ(random.next(), 501869158u);
}

// random.Random(seed).random(), after as many draws as refill the state twice.
TEST(PythonRandom, UniformNumbersAreThoseOfPython) {
  PythonRandom first(0), later(99);
  EXPECT_EQ(first.uniform(), 0.8444218515250481);
  EXPECT_EQ(first.uniform(), 0.7579544029403025);
  for (int i = 0; i < 700; ++i) later.uniform();
  EXPECT_EQ(later.uniform(), 0.4636590366411817);
}

// random.Random(1234).sample(range(population), count), twice: the sizes of the datasets, on both sides of Python's choice of a method.
struct Draw {
  uint32_t population, count;
  Indices first, second;
};
TEST(PythonRandom, SamplesAreThoseOfPython) {
  const Draw draws[] = {
      {1119, 25, {902, 239, 15, 185, 71}, {954, 140, 182, 1054, 94}},
      {39905, 11, {28883, 7657, 490, 5940, 38156}, {2019, 1038, 22681, 31735, 30379}},
      {40398, 6, {28883, 7657, 490, 5940, 38156}, {5500, 6450, 23241, 15519, 1142}},
      {2251, 5, {1805, 478, 30, 371, 143}, {343, 403, 1452, 969, 71}},
      {21, 5, {14, 3, 0, 2, 1}, {2, 3, 11, 7, 0}},
      {22, 5, {14, 3, 0, 2, 18}, {1, 21, 2, 3, 11}},
      {85, 6, {56, 14, 0, 11, 74}, {10, 12, 45, 30, 2}},
      {86, 6, {56, 14, 0, 11, 74}, {85, 10, 12, 45, 30}},
      {277, 25, {225, 59, 3, 46, 17}, {238, 35, 45, 263, 23}},
      {278, 25, {225, 59, 3, 46, 17}, {45, 263, 23, 138, 32}},
      {8, 8, {7, 0, 6, 5, 4}, {5, 1, 0, 7, 4}},
  };
  for (const Draw& draw : draws) {
    PythonRandom random(1234);
    EXPECT_EQ(first_five(random.sample(draw.population, draw.count)), draw.first) << draw.population << " " << draw.count;
    EXPECT_EQ(first_five(random.sample(draw.population, draw.count)), draw.second) << draw.population << " " << draw.count;
  }
}

TEST(PythonRandom, AWholePopulationIsAPermutation) {
  PythonRandom random(7);
  Indices all = random.sample(50, 50);
  std::sort(all.begin(), all.end());
  for (uint32_t i = 0; i < 50; ++i) EXPECT_EQ(all[i], i);
}

}  // namespace
}  // namespace retort::harness
