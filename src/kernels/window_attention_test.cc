#include "kernels/window_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "base/cpu.h"
#include "kernels/scratch.h"

namespace retort {
namespace {

struct Case {
  KernelAttention spec;
  int64_t tokens;
};

std::string describe(const Case& c) {
  return "H=" + std::to_string(c.spec.heads) + " G=" + std::to_string(c.spec.kv_heads) + " d=" + std::to_string(c.spec.key_dim) +
         " V=" + std::to_string(c.spec.value_dim) + " window=" + std::to_string(c.spec.window) + " sinks=" +
         std::to_string(c.spec.sinks) + " T=" + std::to_string(c.tokens);
}

std::vector<Case> cases() {
  return {{{6, 2, 16, 8, 0, 0}, 150},  {{4, 2, 64, 64, 64, 4}, 200}, {{3, 1, 5, 7, 10, 3}, 90},   {{2, 2, 32, 128, 1, 0}, 70},
          {{2, 1, 8, 8, 100, 70}, 300}, {{2, 1, 8, 8, 3, 5}, 64},     {{1, 1, 128, 128, 64, 1}, 129}, {{5, 1, 16, 16, 63, 0}, 191},
          {{1, 1, 4, 4, 1000, 9}, 80}};
}

template <class T>
struct Arrays {
  std::vector<T> q, k, v, out, log_norm;
};

Arrays<double> random_arrays(const Case& c, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  const auto& s = c.spec;
  Arrays<double> a{std::vector<double>(c.tokens * s.heads * s.key_dim), std::vector<double>(c.tokens * s.kv_heads * s.key_dim),
                   std::vector<double>(c.tokens * s.kv_heads * s.value_dim), std::vector<double>(c.tokens * s.heads * s.value_dim),
                   std::vector<double>(c.tokens * s.heads)};
  for (auto* x : {&a.q, &a.k, &a.v, &a.out, &a.log_norm}) {
    for (double& e : *x) e = float(1.5 * normal(random));
  }
  return a;
}

template <class T>
std::vector<T> as(const std::vector<double>& x) { return {x.begin(), x.end()}; }
Arrays<float> to_float(const Arrays<double>& a) { return {as<float>(a.q), as<float>(a.k), as<float>(a.v), as<float>(a.out), as<float>(a.log_norm)}; }

Arrays<double> definition(const Case& c, const Arrays<double>& a) {
  const auto& s = c.spec;
  Arrays<double> r = a;
  for (int64_t t = 0; t < c.tokens; ++t) {
    for (int h = 0; h < s.heads; ++h) {
      const int g = h / s.group();
      std::vector<double> y(s.value_dim, 0.0);
      double sum = 0;
      for (int64_t j = 0; j <= t; ++j) {
        if (s.window > 0 && j <= t - s.window && j >= s.sinks) continue;
        double z = 0;
        for (int i = 0; i < s.key_dim; ++i) z += a.q[(t * s.heads + h) * s.key_dim + i] * a.k[(j * s.kv_heads + g) * s.key_dim + i];
        const double weight = std::exp(z / std::sqrt(double(s.key_dim)));
        sum += weight;
        for (int i = 0; i < s.value_dim; ++i) y[i] += weight * a.v[(j * s.kv_heads + g) * s.value_dim + i];
      }
      for (int i = 0; i < s.value_dim; ++i) r.out[(t * s.heads + h) * s.value_dim + i] = y[i] / sum;
      r.log_norm[t * s.heads + h] = std::log(sum);
    }
  }
  return r;
}

template <class T>
Arrays<T> forward(const Case& c, const Arrays<T>& a, Arithmetic arithmetic = Arithmetic::kExact) {
  Arrays<T> r = a;
  r.out.assign(r.out.size(), std::numeric_limits<T>::quiet_NaN());
  r.log_norm.assign(r.log_norm.size(), std::numeric_limits<T>::quiet_NaN());
  for (int g = 0; g < c.spec.kv_heads; ++g) {
    if constexpr (std::is_same_v<T, float>) {
      window_attention_forward(c.spec, g, c.tokens, a.q.data(), a.k.data(), a.v.data(), r.out.data(), r.log_norm.data(), arithmetic);
    } else {
      window_attention_forward(c.spec, g, c.tokens, a.q.data(), a.k.data(), a.v.data(), r.out.data(), r.log_norm.data());
    }
  }
  return r;
}

// Gradients of q, k, v for d_out = weights.out, d_log_norm = weights.log_norm.
template <class T>
Arrays<T> backward(const Case& c, const Arrays<T>& a, const Arrays<T>& weights, Arithmetic arithmetic = Arithmetic::kExact) {
  const Arrays<T> f = forward(c, a, arithmetic);
  Arrays<T> g = a;
  for (auto* x : {&g.q, &g.k, &g.v}) x->assign(x->size(), std::numeric_limits<T>::quiet_NaN());
  for (int head = 0; head < c.spec.kv_heads; ++head) {
    if constexpr (std::is_same_v<T, float>) {
      window_attention_backward(c.spec, head, c.tokens, a.q.data(), a.k.data(), a.v.data(), f.out.data(), f.log_norm.data(),
                                weights.out.data(), weights.log_norm.data(), g.q.data(), g.k.data(), g.v.data(), arithmetic);
    } else {
      window_attention_backward(c.spec, head, c.tokens, a.q.data(), a.k.data(), a.v.data(), f.out.data(), f.log_norm.data(),
                                weights.out.data(), weights.log_norm.data(), g.q.data(), g.k.data(), g.v.data());
    }
  }
  return g;
}

template <class A>
double distance(const std::vector<A>& a, const std::vector<double>& b) {
  double most = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::fabs(double(a[i]) - b[i]);
    if (std::isnan(difference)) return INFINITY;
    most = std::max(most, difference);
    size = std::max(size, std::fabs(b[i]));
  }
  return most / size;
}

class WindowAttention : public testing::Test {
 protected:
  void SetUp() override { poison_scratch(true); }
  void TearDown() override {
    poison_scratch(false);
    set_active_isa(available_isas().back());
  }
};

TEST_F(WindowAttention, ForwardIsTheDefinitionOnEveryIsa) {
  for (const Case& c : cases()) {
    const auto a = random_arrays(c, 1);
    const auto want = definition(c, a);
    EXPECT_LT(distance(forward(c, a).out, want.out), 1e-12) << describe(c);
    EXPECT_LT(distance(forward(c, a).log_norm, want.log_norm), 1e-12) << describe(c);
    for (Isa isa : available_isas()) {
      set_active_isa(isa);
      const auto got = forward(c, to_float(a));
      // exp turns an absolute error of the scores (eps times a dot product of size ~ 10) into a relative one.
      EXPECT_LT(distance(got.out, want.out), 2e-5) << isa_name(isa) << ' ' << describe(c);
      EXPECT_LT(distance(got.log_norm, want.log_norm), 2e-5) << isa_name(isa) << ' ' << describe(c);
      EXPECT_LT(distance(forward(c, to_float(a), Arithmetic::kFast).out, want.out), 5e-2) << isa_name(isa) << ' ' << describe(c);
    }
  }
}

TEST_F(WindowAttention, GradientsAreFiniteDifferences) {
  for (const Case& c : cases()) {
    auto a = random_arrays(c, 2);
    const auto weights = random_arrays(c, 3);
    const auto loss = [&] {
      const auto f = forward(c, a);
      double sum = 0;
      for (size_t i = 0; i < f.out.size(); ++i) sum += f.out[i] * weights.out[i];
      for (size_t i = 0; i < f.log_norm.size(); ++i) sum += f.log_norm[i] * weights.log_norm[i];
      return sum;
    };
    const auto g = backward(c, a, weights);
    std::mt19937 random(5);
    const auto check = [&](const char* name, std::vector<double>& x, const std::vector<double>& gradient) {
      for (int trial = 0; trial < 20; ++trial) {
        const size_t i = trial == 0 ? 0 : random() % x.size();
        const double kept = x[i], h = 1e-5;
        x[i] = kept + h;
        const double up = loss();
        x[i] = kept - h;
        const double down = loss();
        x[i] = kept;
        EXPECT_NEAR(gradient[i], (up - down) / (2 * h), 1e-5) << name << "[" << i << "] " << describe(c);
      }
    };
    check("q", a.q, g.q);
    check("k", a.k, g.k);
    check("v", a.v, g.v);
  }
}

TEST_F(WindowAttention, FloatGradientsFollowDoubleOnEveryIsa) {
  for (Isa isa : available_isas()) {
    set_active_isa(isa);
    for (const Case& c : cases()) {
      const auto a = random_arrays(c, 4), weights = random_arrays(c, 6);
      const auto want = backward(c, a, weights);
      for (Arithmetic arithmetic : {Arithmetic::kExact, Arithmetic::kFast}) {
        const auto got = backward(c, to_float(a), to_float(weights), arithmetic);
        const double tolerance = arithmetic == Arithmetic::kExact ? 1e-4 : 5e-2;
        EXPECT_LT(distance(got.q, want.q), tolerance) << isa_name(isa) << ' ' << describe(c);
        EXPECT_LT(distance(got.k, want.k), tolerance) << isa_name(isa) << ' ' << describe(c);
        EXPECT_LT(distance(got.v, want.v), tolerance) << isa_name(isa) << ' ' << describe(c);
      }
    }
  }
}

}  // namespace
}  // namespace retort
