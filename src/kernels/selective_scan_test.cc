#include "kernels/selective_scan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "base/cpu.h"
#include "base/error.h"
#include "kernels/scratch.h"

namespace retort {
namespace {

struct Case {
  KernelScan spec;
  int64_t tokens;
  double strongest = 0.2;  // log-decays are in [-strongest, 0]
};

std::string describe(const Case& c) {
  return cat("H=", c.spec.heads, " G=", c.spec.kv_heads, " K=", c.spec.key_dim, " V=", c.spec.value_dim, " T=", c.tokens,
             " first=", c.spec.first_position, " decay to -", c.strongest);
}

template <class T>
struct Data {
  std::vector<T> q, k, v, step, rate;
  ScanTokens<T> at(const KernelScan& s, int64_t t) const {
    return {q.data() + t * s.heads * s.key_dim, k.data() + t * s.kv_heads * s.key_dim, v.data() + t * s.kv_heads * s.value_dim,
            step.data() + t * s.kv_heads * s.value_dim};
  }
};

Data<double> random_data(const Case& c, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform(0.01, 1);
  const auto& s = c.spec;
  const auto fill = [&](std::vector<double>& x, int64_t n, auto&& draw) {
    x.resize(size_t(n));
    for (double& e : x) e = float(draw());
  };
  Data<double> d;
  fill(d.q, c.tokens * s.heads * s.key_dim, [&] { return normal(random); });
  fill(d.k, c.tokens * s.kv_heads * s.key_dim, [&] { return normal(random); });
  fill(d.v, c.tokens * s.kv_heads * s.value_dim, [&] { return normal(random); });
  fill(d.step, c.tokens * s.kv_heads * s.value_dim, [&] { return uniform(random); });
  fill(d.rate, s.kv_heads * s.state_size(), [&] { return -c.strongest * uniform(random); });
  return d;
}

template <class T>
std::vector<T> as(const std::vector<double>& x) { return {x.begin(), x.end()}; }
Data<float> to_float(const Data<double>& d) { return {as<float>(d.q), as<float>(d.k), as<float>(d.v), as<float>(d.step), as<float>(d.rate)}; }

// The definition, token by token.
std::vector<double> definition(const Case& c, const Data<double>& d) {
  const auto& s = c.spec;
  const int K = s.key_dim, V = s.value_dim;
  std::vector<double> out(size_t(c.tokens * s.heads * V), 0.0), S(size_t(s.kv_heads * K * V), 0.0);
  for (int64_t t = s.first_position; t < c.tokens; ++t) {
    for (int h = 0; h < s.heads; ++h) {
      const int g = h / s.group();
      for (int i = 0; i < K; ++i) {
        for (int j = 0; j < V; ++j) {
          double& x = S[size_t((g * K + i) * V + j)];
          if (h % s.group() == 0) {
            x = std::exp(d.rate[size_t((g * K + i) * V + j)] * d.step[size_t((t * s.kv_heads + g) * V + j)]) * x +
                d.k[size_t((t * s.kv_heads + g) * K + i)] * d.v[size_t((t * s.kv_heads + g) * V + j)];
          }
          out[size_t((t * s.heads + h) * V + j)] += d.q[size_t((t * s.heads + h) * K + i)] * x;
        }
      }
    }
  }
  return out;
}

// In pieces, the state carried; what the pieces leave over goes in one call.
template <class T>
std::vector<T> run(const Case& c, const Data<T>& d, const std::vector<int64_t>& pieces) {
  const auto& s = c.spec;
  std::vector<T> out(size_t(c.tokens * s.heads * s.value_dim), std::numeric_limits<T>::quiet_NaN());
  std::vector<T> state(size_t(s.kv_heads * s.state_size()), T(0));
  int64_t t = 0;
  for (size_t i = 0; t < c.tokens; ++i) {
    const int64_t n = i < pieces.size() ? std::min(pieces[i], c.tokens - t) : c.tokens - t;
    for (int g = 0; g < s.kv_heads; ++g) {
      selective_scan_forward(s, g, n, t, d.at(s, t), d.rate.data(), state.data() + g * s.state_size(), out.data() + t * s.heads * s.value_dim);
    }
    t += n;
  }
  return out;
}

template <class A, class B>
double distance(const std::vector<A>& a, const std::vector<B>& b) {
  double most = 0, size = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    const double difference = std::fabs(double(a[i]) - double(b[i]));
    if (std::isnan(difference)) return INFINITY;
    most = std::max(most, difference), size = std::max(size, std::fabs(double(b[i])));
  }
  return most / std::max(size, 1e-30);
}

std::vector<Case> cases() {
  return {{{6, 2, 16, 8, 0}, 150},       {{3, 3, 7, 5, 9}, 131},         {{5, 1, 33, 70, 40}, 100}, {{1, 1, 1, 1, 0}, 65},
          {{2, 2, 16, 16, 0}, 33},       {{4, 2, 20, 19, 0}, 130, 20.0}, {{1, 1, 8, 16, 0}, 40, 1e4}, {{2, 1, 9, 17, 50}, 32}};
}

class SelectiveScan : public testing::Test {
 protected:
  void SetUp() override { poison_scratch(true); }
  void TearDown() override {
    poison_scratch(false);
    set_active_isa(available_isas().back());
  }
};

TEST_F(SelectiveScan, DoubleIsTheDefinitionInAnyPieces) {
  for (const Case& c : cases()) {
    const auto d = random_data(c, 1);
    const auto want = definition(c, d);
    for (const auto& pieces : {std::vector<int64_t>{}, std::vector<int64_t>(size_t(c.tokens), 1), std::vector<int64_t>{1, 31, 2, 33, 1, 17}}) {
      EXPECT_LT(distance(run(c, d, pieces), want), 1e-12) << describe(c);
    }
  }
}

TEST_F(SelectiveScan, WithoutAStateItStartsFromZero) {
  const Case c = cases()[0];
  const auto d = random_data(c, 1);
  std::vector<double> out(size_t(c.tokens * c.spec.heads * c.spec.value_dim));
  for (int g = 0; g < c.spec.kv_heads; ++g) selective_scan_forward(c.spec, g, c.tokens, 0, d.at(c.spec, 0), d.rate.data(), nullptr, out.data());
  EXPECT_EQ(out, run(c, d, {}));
}

TEST_F(SelectiveScan, FloatFollowsDoubleOnEveryIsa) {
  for (const Case& c : cases()) {
    const auto d = random_data(c, 2);
    const auto want = definition(c, d);
    // Sums of up to T K terms of either sign: eps sqrt(T K), with a factor for the spread.
    const double tolerance = 6e-8 * 16 * std::sqrt(double(c.tokens * c.spec.key_dim));
    std::vector<float> first;
    for (Isa isa : available_isas()) {
      set_active_isa(isa);
      for (const auto& pieces : {std::vector<int64_t>{}, std::vector<int64_t>(size_t(c.tokens), 1), std::vector<int64_t>{3, 1, 66}}) {
        const auto got = run(c, to_float(d), pieces);
        EXPECT_LT(distance(got, want), tolerance) << isa_name(isa) << ' ' << describe(c);
        if (first.empty()) first = got;
        EXPECT_EQ(got, first) << "not the same bits: " << isa_name(isa) << ' ' << describe(c);
      }
    }
  }
}

// A scalar loss: the sum of out with fixed random weights.
std::vector<double> random_weights(const Case& c) {
  std::mt19937 random(7);
  std::normal_distribution<double> normal;
  std::vector<double> weights(size_t(c.tokens * c.spec.heads * c.spec.value_dim));
  for (double& x : weights) x = float(normal(random));
  return weights;
}

double loss(const Case& c, const Data<double>& d, const std::vector<double>& weights) {
  const auto out = run(c, d, {});
  double sum = 0;
  for (size_t i = 0; i < out.size(); ++i) sum += weights[i] * out[i];
  return sum;
}

// What the rate's gradient is before it is added to (in floats the difference would lose digits).
template <class T>
constexpr T kBefore = std::is_same_v<T, double> ? 3 : 0;

template <class T>
Data<T> backward(const Case& c, const Data<T>& d, const std::vector<double>& weights) {
  const T nan = std::numeric_limits<T>::quiet_NaN();
  Data<T> g{std::vector<T>(d.q.size(), nan), std::vector<T>(d.k.size(), nan), std::vector<T>(d.v.size(), nan),
            std::vector<T>(d.step.size(), nan), std::vector<T>(d.rate.size(), kBefore<T>)};
  const auto d_out = as<T>(weights);
  for (int head = 0; head < c.spec.kv_heads; ++head) {
    selective_scan_backward(c.spec, head, c.tokens, d.at(c.spec, 0), d.rate.data(), d_out.data(),
                            {g.q.data(), g.k.data(), g.v.data(), g.step.data(), g.rate.data()});
  }
  for (T& x : g.rate) x -= kBefore<T>;
  return g;
}

TEST_F(SelectiveScan, GradientsAreFiniteDifferences) {
  for (const Case& c : cases()) {
    Data<double> d = random_data(c, 3);
    const auto weights = random_weights(c);
    const Data<double> g = backward(c, d, weights);
    std::mt19937 random(5);
    const auto check = [&](const char* name, std::vector<double>& x, const std::vector<double>& gradient) {
      double size = 0;
      for (double e : gradient) size = std::max(size, std::fabs(e));
      for (int trial = 0; trial < 12; ++trial) {
        const size_t i = random() % gradient.size();
        const double kept = x[i], h = 1e-5;
        x[i] = kept + h;
        const double up = loss(c, d, weights);
        x[i] = kept - h;
        const double down = loss(c, d, weights);
        x[i] = kept;
        // Central differences: error h^2 of the third derivative, and rounding of the loss over h.
        EXPECT_NEAR(gradient[i], (up - down) / (2 * h), 2e-6 * (size + 1)) << name << "[" << i << "] " << describe(c);
      }
    };
    check("q", d.q, g.q);
    check("k", d.k, g.k);
    check("v", d.v, g.v);
    if (c.strongest < 1e3) check("step", d.step, g.step);  // beyond it h is no small change
    check("rate", d.rate, g.rate);
  }
}

TEST_F(SelectiveScan, FloatGradientsFollowDoubleOnEveryIsa) {
  for (const Case& c : cases()) {
    const auto d = random_data(c, 4);
    const auto weights = random_weights(c);
    const auto want = backward(c, d, weights);
    const double tolerance = 6e-8 * 32 * std::sqrt(double(c.tokens * c.spec.key_dim));
    for (Isa isa : available_isas()) {
      set_active_isa(isa);
      const auto got = backward(c, to_float(d), weights);
      EXPECT_LT(distance(got.q, want.q), tolerance) << isa_name(isa) << ' ' << describe(c);
      EXPECT_LT(distance(got.k, want.k), tolerance) << isa_name(isa) << ' ' << describe(c);
      EXPECT_LT(distance(got.v, want.v), tolerance) << isa_name(isa) << ' ' << describe(c);
      EXPECT_LT(distance(got.step, want.step), tolerance) << isa_name(isa) << ' ' << describe(c);
      EXPECT_LT(distance(got.rate, want.rate), tolerance) << isa_name(isa) << ' ' << describe(c);
    }
  }
}

}  // namespace
}  // namespace retort
