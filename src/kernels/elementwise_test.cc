#include "kernels/elementwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "base/half.h"

namespace retort {
namespace {

std::vector<float> random_floats(size_t n, float spread, unsigned seed = 1) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> v(n);
  for (float& x : v) x = normal(rng);
  return v;
}

constexpr int64_t kSizes[] = {1, 2, 15, 16, 17, 31, 48, 100, 577};

using Unary = void (*)(const float*, int64_t, float*);

// Relative error of every value over the range and of every length; misaligned by one float; nothing written beyond.
void check(const char* name, Unary ElementwiseKernels::*member, const std::function<double(double)>& want, float low, float high,
           double tolerance) {
  std::vector<float> first;
  for (Isa isa : available_isas()) {
    const Unary fn = elementwise(isa).*member;
    constexpr int64_t kPoints = 200001;
    std::vector<float> x(kPoints), y(kPoints);
    for (int64_t i = 0; i < kPoints; ++i) x[i] = low + (high - low) * float(i) / float(kPoints - 1);
    fn(x.data(), kPoints, y.data());
    double worst = 0;
    for (int64_t i = 0; i < kPoints; ++i) {
      const double w = want(x[i]);
      worst = std::max(worst, std::fabs(y[i] - w) / std::max(std::fabs(w), 1e-37));
    }
    EXPECT_LT(worst, tolerance) << name << " " << isa_name(isa);
    if (first.empty()) first = y;
    EXPECT_EQ(std::memcmp(first.data(), y.data(), y.size() * 4), 0) << name << " " << isa_name(isa);
    for (int64_t n : kSizes) {
      std::vector<float> out(size_t(n) + 2, NAN);
      fn(x.data() + 1, n, out.data() + 1);
      EXPECT_EQ(std::memcmp(out.data() + 1, y.data() + 1, size_t(n) * 4), 0) << name << " " << isa_name(isa) << " " << n;
      EXPECT_TRUE(std::isnan(out[0]) && std::isnan(out[size_t(n) + 1])) << name << " " << isa_name(isa) << " " << n;
    }
  }
}

TEST(Elementwise, FunctionsAreAccurate) {
  using K = ElementwiseKernels;
  const auto log1pexp = [](double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); };
  check("exp", &K::exp, [](double x) { return std::exp(x); }, -86, 88, 2e-7);
  check("one_minus_exp", &K::one_minus_exp, [](double x) { return -std::expm1(x); }, -86, 88, 4e-7);
  check("one_minus_exp near 0", &K::one_minus_exp, [](double x) { return -std::expm1(x); }, -1e-3f, 1e-3f, 4e-7);
  check("tanh", &K::tanh, [](double x) { return std::tanh(x); }, -20, 20, 5e-7);
  check("tanh near 0", &K::tanh, [](double x) { return std::tanh(x); }, -1e-3f, 1e-3f, 5e-7);
  check("sigmoid", &K::sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }, -80, 80, 4e-7);
  check("silu", &K::silu, [](double x) { return x / (1 + std::exp(-x)); }, -80, 80, 4e-7);
  check("softplus", &K::softplus, log1pexp, -80, 80, 5e-7);
  check("log_sigmoid", &K::log_sigmoid, [&](double x) { return -log1pexp(-x); }, -80, 80, 5e-7);
}

TEST(Elementwise, ExpAtTheEdges) {
  for (Isa isa : available_isas()) {
    const float x[] = {-INFINITY, -200, -87, 0, 89, 1e30f, INFINITY, NAN};
    float y[8];
    elementwise(isa).exp(x, 8, y);
    EXPECT_EQ(y[0], 0) << isa_name(isa);
    EXPECT_EQ(y[1], 0);
    EXPECT_EQ(y[2], 0);
    EXPECT_EQ(y[3], 1);
    EXPECT_EQ(y[4], INFINITY);
    EXPECT_EQ(y[5], INFINITY);
    EXPECT_EQ(y[6], INFINITY);
    EXPECT_TRUE(std::isnan(y[7]));
  }
}

TEST(Elementwise, RowsAgreeWithDoubles) {
  for (Isa isa : available_isas()) {
    const auto& k = elementwise(isa);
    for (int64_t n : kSizes) {
      SCOPED_TRACE(std::string(isa_name(isa)) + " n " + std::to_string(n));
      const auto a = random_floats(size_t(n), 3), b = random_floats(size_t(n), 3, 2);
      std::vector<float> y(size_t(n), NAN);
      double square = 0, dot = 0, sum = 0, size = 0;
      float most = -INFINITY;
      for (int64_t i = 0; i < n; ++i) {
        square += double(a[i]) * a[i];
        dot += double(a[i]) * b[i];
        size += std::fabs(double(a[i]) * b[i]);
        most = std::max(most, a[i]);
      }
      for (float x : a) sum += std::exp(double(x) - most);
      EXPECT_NEAR(k.dot(a.data(), b.data(), n), dot, size * 1e-6);
      k.rms_norm(a.data(), b.data(), 1e-5f, n, y.data());
      for (int64_t i = 0; i < n; ++i) {
        const double want = a[i] / std::sqrt(square / double(n) + 1e-5) * b[i];
        ASSERT_NEAR(y[i], want, std::fabs(want) * 1e-6);
      }
      k.center(a.data(), n, y.data());
      double mean = 0;
      for (float x : a) mean += x / double(n);
      for (int64_t i = 0; i < n; ++i) ASSERT_NEAR(y[i], a[i] - mean, 1e-5);
      k.softmax(a.data(), n, y.data());
      for (int64_t i = 0; i < n; ++i) ASSERT_NEAR(y[i], std::exp(double(a[i]) - most) / sum, 2e-6 * y[i] + 1e-38);
      EXPECT_EQ(k.exp_minus_max(a.data(), n, y.data()), most);
      EXPECT_EQ(a[size_t(k.argmax(a.data(), n))], most);
      k.silu_mul(a.data(), b.data(), n, y.data());
      for (int64_t i = 0; i < n; ++i) {
        const double want = a[i] / (1 + std::exp(-double(a[i]))) * b[i];
        ASSERT_NEAR(y[i], want, std::fabs(want) * 1e-6);
      }
      std::vector<uint16_t> h(size_t(n), 0);
      k.to_bf16(a.data(), n, h.data());
      for (int64_t i = 0; i < n; ++i) ASSERT_EQ(h[i], float_to_bf16(a[i]));
      k.from_bf16(h.data(), n, y.data());
      for (int64_t i = 0; i < n; ++i) ASSERT_EQ(y[i], bf16_to_float(h[i]));
      y = b;
      k.mul_add(a.data(), b.data(), n, y.data());
      for (int64_t i = 0; i < n; ++i) ASSERT_EQ(y[i], std::fma(a[i], b[i], b[i]));
      y = b;
      k.add_scaled(a.data(), 0.5f, n, y.data());
      for (int64_t i = 0; i < n; ++i) ASSERT_EQ(y[i], std::fma(a[i], 0.5f, b[i]));
    }
  }
}

TEST(Elementwise, RopeRotatesHalfSplitPairs) {
  for (Isa isa : available_isas()) {
    for (int64_t d : {2, 6, 32, 64, 80}) {
      auto x = random_floats(size_t(3 * d), 1);
      const auto before = x;
      std::vector<double> frequencies(size_t(d / 2));
      for (int64_t i = 0; i < d / 2; ++i) frequencies[i] = std::pow(100000.0, -2.0 * double(i) / double(d));
      std::vector<float> c(size_t(d / 2)), s(size_t(d / 2));
      rope_angles(frequencies.data(), d / 2, 1000000, c.data(), s.data());
      elementwise(isa).rope(x.data(), 3, d, c.data(), s.data());
      for (int64_t h = 0; h < 3; ++h) {
        for (int64_t i = 0; i < d / 2; ++i) {
          const double angle = 1e6 * frequencies[i], a = before[h * d + i], b = before[h * d + i + d / 2];
          ASSERT_NEAR(x[h * d + i], a * std::cos(angle) - b * std::sin(angle), 1e-6) << isa_name(isa) << " d " << d;
          ASSERT_NEAR(x[h * d + i + d / 2], b * std::cos(angle) + a * std::sin(angle), 1e-6);
        }
      }
    }
  }
}

}  // namespace
}  // namespace retort
