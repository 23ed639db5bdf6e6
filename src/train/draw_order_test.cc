#include "train/draw_order.h"

#include <set>

#include <gtest/gtest.h>

namespace retort::train {
namespace {

TEST(DrawOrder, EveryItemOnceAnEpochInAnOrderOfItsOwn) {
  DrawOrder order(std::vector<int>(50, 0), {}, 7);
  std::vector<size_t> before;
  for (int epoch = 0; epoch < 3; ++epoch) {
    std::vector<size_t> items;
    for (int i = 0; i < 50; ++i) {
      items.push_back(order.next());
      order.count(10);
      EXPECT_EQ(order.epoch(), epoch);
    }
    EXPECT_EQ(std::set<size_t>(items.begin(), items.end()).size(), 50u);
    EXPECT_NE(items, before);
    before = items;
  }
}

TEST(DrawOrder, WithoutWeightsSourcesAreOne) {
  DrawOrder one(std::vector<int>(20, 0), {}, 7), two({0, 1, 1, 0, 1, 0, 0, 1, 1, 1, 0, 1, 1, 0, 1, 0, 0, 1, 1, 1}, {}, 7);
  for (int i = 0; i < 45; ++i) EXPECT_EQ(one.next(), two.next());
}

TEST(DrawOrder, ASourceLacksAtMostItsShareOfAnItemOfEachOther) {
  std::vector<int> sources;
  for (int i = 0; i < 90; ++i) sources.push_back(i % 3);
  const std::vector<double> weights = {1, 2.5, 0.25};
  DrawOrder order(sources, weights, 3);
  std::vector<double> tokens(3);
  double all = 0;
  for (int i = 0; i < 1000; ++i) {
    const size_t item = order.next();
    const int64_t size = 20 + int64_t(item % 41);
    order.count(size);
    tokens[size_t(sources[item])] += double(size), all += double(size);
    for (size_t s = 0; s < 3; ++s) EXPECT_GE(tokens[s], (all - 2 * 60) * weights[s] / 3.75 - 1e-6) << i;  // items have at most 60 tokens
  }
}

TEST(DrawOrder, GoesOnWhereItWas) {
  const std::vector<int> sources = {0, 0, 1, 0, 2, 2, 1, 0, 1, 2, 0};
  DrawOrder straight(sources, {1, 2, 3}, 9);
  for (int i = 0; i < 60; ++i) {
    DrawOrder resumed(sources, {1, 2, 3}, 9);
    ASSERT_TRUE(resumed.restore(nlohmann::json::parse(straight.cursor().dump())).ok());
    const size_t item = straight.next();
    ASSERT_EQ(resumed.next(), item) << i;
    straight.count(int64_t(5 + item));
    resumed.count(int64_t(5 + item));
    ASSERT_EQ(resumed.cursor(), straight.cursor());
  }
  EXPECT_GT(straight.epoch(), 3);
}

TEST(DrawOrder, ASourceWithoutItemsIsLeftOut) {
  DrawOrder order({0, 2, 0, 2}, {1, 5, 1}, 1);
  std::set<size_t> items;
  for (int i = 0; i < 4; ++i) {
    items.insert(order.next());
    order.count(0);  // counts all the same
  }
  EXPECT_EQ(items.size(), 4u);
}

}  // namespace
}  // namespace retort::train
