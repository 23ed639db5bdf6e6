#include "train/optimizer.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace retort::train {
namespace {

struct Tensors {
  std::vector<float> a = std::vector<float>(70001), b = std::vector<float>(13), ga = a, gb = b;
  Tensors() {
    for (size_t i = 0; i < a.size(); ++i) a[i] = std::sin(float(i));
    for (size_t i = 0; i < b.size(); ++i) b[i] = std::cos(float(i));
  }
  std::vector<Parameter> parameters() {
    return {{"a", TrainGroup::kProjection, true, 0, a, ga}, {"b", TrainGroup::kGate, false, 1, b, gb}};
  }
  void gradients(int step) {
    for (size_t i = 0; i < a.size(); ++i) ga[i] = std::sin(float(i % 1000) * 0.37f + float(step));
    for (size_t i = 0; i < b.size(); ++i) gb[i] = 0.1f * std::cos(float(i) + float(step));
  }
};

TEST(AdamW, AgreesWithTheFormula) {
  ThreadPool pool(2);
  Tensors t;
  const AdamSettings s{0.9, 0.95, 1e-8, 0.1, 0, 0.9};
  AdamW adam(t.parameters(), s, pool);
  double w = t.a[5], m = 0, v = 0, ema = w;
  for (int step = 1; step <= 20; ++step) {
    t.gradients(step);
    const double g = t.ga[5];
    m = 0.9 * m + 0.1 * g;
    v = 0.95 * v + 0.05 * g * g;
    w -= 0.01 * (m / (1 - std::pow(0.9, step)) / (std::sqrt(v / (1 - std::pow(0.95, step))) + 1e-8) + 0.1 * w);
    ema += (1 - std::min(0.9, (1.0 + step) / (10.0 + step))) * (w - ema);
    ASSERT_TRUE(adam.step({0.01, 0, 0.02}).ok());
    EXPECT_EQ(t.ga[5], 0) << "gradients are used up";
  }
  EXPECT_NEAR(t.a[5], w, 2e-6) << "20 steps of f32 rounding";
  adam.take_average();
  EXPECT_NEAR(t.a[5], ema, 2e-6);
}

TEST(AdamW, EachGroupHasItsRate) {
  ThreadPool pool(1);
  using enum TrainGroup;
  const std::vector<std::pair<TrainGroup, double>> rates = {{kBody, 0.4}, {kProjection, 0.1}, {kFeature, 0.2}, {kGate, 0.3}};
  std::vector<float> values(rates.size(), 1.0f), gradients(rates.size(), 2.0f);
  std::vector<Parameter> parameters;
  for (size_t i = 0; i < rates.size(); ++i) parameters.push_back({cat(i), rates[i].first, false, 0, {&values[i], 1}, {&gradients[i], 1}});
  ASSERT_TRUE(AdamW(parameters, {}, pool).step({.projection = 0.1, .feature = 0.2, .gate = 0.3, .body = 0.4}).ok());
  for (size_t i = 0; i < rates.size(); ++i) EXPECT_NEAR(values[i], 1 - rates[i].second, 1e-6);  // a first step is its rate
}

TEST(AdamW, ClipsEachGroupOnItsOwn) {
  ThreadPool pool(1);
  Tensors t;
  AdamW adam(t.parameters(), {0.0, 0.0, 1.0, 0, 2.0, 0}, pool);  // update = g / (|g| + 1): shows the gradient's size
  t.gradients(1);
  const float ga = t.ga[7], gb = t.gb[3], before_a = t.a[7], before_b = t.b[3];
  double square = 0, small = 0;
  for (float g : t.ga) square += double(g) * g;
  for (float g : t.gb) small += double(g) * g;
  EXPECT_NEAR(*adam.step({1, 1, 1}), std::sqrt(square + small), 1e-6);
  const double clipped = ga * 2.0 / std::sqrt(square);
  EXPECT_NEAR(before_a - t.a[7], clipped / (std::abs(clipped) + 1), 1e-6);
  EXPECT_NEAR(before_b - t.b[3], gb / (std::abs(gb) + 1), 1e-6) << "the small group is left alone";
}

TEST(AdamW, ANonFiniteGradientChangesNothing) {
  ThreadPool pool(1);
  Tensors t;
  AdamW adam(t.parameters(), {}, pool);
  const auto before = t.a;
  t.gradients(1);
  t.gb[2] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(std::isfinite(*adam.step({1, 1, 1})));
  EXPECT_EQ(t.a, before);
  EXPECT_EQ(t.ga[0], 0);
  EXPECT_EQ(adam.steps(), 0);
}

TEST(AdamW, ThreadsAndSavedStateLeaveTheBitsAlone) {
  ThreadPool one(1), three(3);
  const AdamSettings s{0.9, 0.95, 1e-8, 0.01, 1.0, 0.99};
  Tensors straight, resumed;
  AdamW a(straight.parameters(), s, three);
  auto b = std::make_unique<AdamW>(resumed.parameters(), s, one);
  for (int step = 0; step < 12; ++step) {
    straight.gradients(step), resumed.gradients(step);
    EXPECT_EQ(*a.step({1e-2, 0, 3e-2}), *b->step({1e-2, 0, 3e-2}));
    if (step != 5) continue;
    std::vector<std::vector<float>> saved;
    for (auto& tensor : b->state()) saved.emplace_back(tensor.values.begin(), tensor.values.end());
    const int64_t steps = b->steps();
    b = std::make_unique<AdamW>(resumed.parameters(), s, one);
    b->set_steps(steps);
    auto state = b->state();
    ASSERT_EQ(state.size(), 6u);
    for (size_t i = 0; i < state.size(); ++i) std::copy(saved[i].begin(), saved[i].end(), state[i].values.begin());
  }
  EXPECT_EQ(straight.a, resumed.a);
  EXPECT_EQ(straight.b, resumed.b);
}

}  // namespace
}  // namespace retort::train
