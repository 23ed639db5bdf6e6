#include "train/plateau.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace retort::train {
namespace {

// The losses' means one after the other, and the plateaus among them, written down the other way round.
std::vector<size_t> plateaus_of(const std::vector<double>& losses, const PlateauSpec& spec) {
  std::vector<double> means;
  for (size_t i = 0; i + size_t(spec.every) <= losses.size(); i += size_t(spec.every)) {
    double sum = 0;
    for (size_t j = i; j < i + size_t(spec.every); ++j) sum += losses[j];
    means.push_back(sum / double(spec.every));
  }
  std::vector<size_t> out;
  size_t since = 0;   // the last mean that was better, or the last plateau
  double best = std::numeric_limits<double>::infinity();
  for (size_t m = 0; m < means.size(); ++m) {
    if (means[m] < best * (1 - spec.threshold)) best = means[m], since = m;
    if (int64_t(m - since) <= spec.patience) continue;
    out.push_back((m + 1) * size_t(spec.every) - 1);
    since = m;
  }
  return out;
}

// Falls, more slowly all the time, under noise that is the same every time.
std::vector<double> losses(size_t count) {
  std::vector<double> out;
  uint64_t state = 7;
  for (size_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    out.push_back(2 + 3 * std::exp(-double(i) / 40) + 0.1 * double(state >> 40) / double(1 << 24));
  }
  return out;
}

TEST(Plateau, IsWhereManyMeansInARowAreNoBetter) {
  for (const PlateauSpec spec : {PlateauSpec{1, 3, 1e-4}, PlateauSpec{5, 2, 1e-4}, PlateauSpec{10, 0, 0.01}, PlateauSpec{7, 4, 0}}) {
    const auto all = losses(400);
    Plateau plateau(spec);
    std::vector<size_t> found;
    for (size_t i = 0; i < all.size(); ++i) {
      if (plateau.add(all[i])) found.push_back(i);
    }
    EXPECT_EQ(found, plateaus_of(all, spec)) << spec.every;
    EXPECT_FALSE(found.empty()) << "the test can tell";
  }
}

TEST(Plateau, GoesOnFromWhereItStood) {
  const auto all = losses(300);
  const PlateauSpec spec{6, 1, 0.005};
  for (size_t stop = 0; stop < all.size(); stop += 7) {
    Plateau straight(spec), first(spec), second(spec);
    for (size_t i = 0; i < stop; ++i) straight.add(all[i]), first.add(all[i]);
    ASSERT_TRUE(second.restore(nlohmann::json::parse(first.cursor().dump())).ok());
    for (size_t i = stop; i < all.size(); ++i) ASSERT_EQ(second.add(all[i]), straight.add(all[i])) << stop << " " << i;
  }
}

TEST(Plateau, WhatIsNotFiniteCountsForNothing) {
  Plateau plateau({2, 0, 0});
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_FALSE(plateau.add(1) || plateau.add(nan) || plateau.add(1));
  EXPECT_FALSE(plateau.add(1) || plateau.add(nan) || plateau.add(nan));
  EXPECT_TRUE(plateau.add(1)) << "the second mean is no better";
}

TEST(Plateau, NonsenseIsRefused) {
  Plateau plateau({2, 0, 0});
  for (const char* text : {"null", "[]", "{}", R"({"sum": "x", "steps": 0, "worse": 0, "best": null})", R"({"sum": 0, "steps": -1, "worse": 0, "best": null})"}) {
    EXPECT_FALSE(plateau.restore(nlohmann::json::parse(text)).ok()) << text;
  }
}

}  // namespace
}  // namespace retort::train
