#include "kernels/rank_one.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "base/cpu.h"
#include "base/half.h"
#include "kernels/scratch.h"

namespace retort {
namespace {

struct Case {
  KernelRankOne spec;
  int64_t tokens;
  double strongest = 0.2;  // log-decays are in [-strongest, 0]
  bool narrow = false;     // inputs have 8 significant bits, as bf16 activations have
};

std::string describe(const Case& c) {
  const char* decay = c.spec.decay == KernelDecay::kNone ? "none" : c.spec.decay == KernelDecay::kScalar ? "scalar" : "per_key";
  return std::string(decay) + (c.spec.delta ? " delta" : " rank one") + " H=" + std::to_string(c.spec.heads) + " G=" +
         std::to_string(c.spec.kv_heads) + " K=" + std::to_string(c.spec.key_dim) + " V=" + std::to_string(c.spec.value_dim) +
         " T=" + std::to_string(c.tokens) + " first=" + std::to_string(c.spec.first_position) + " decay to -" +
         std::to_string(c.strongest) + (c.narrow ? " bf16" : "");
}

template <class T>
struct Data {
  std::vector<T> q, k, v, l, a, b;
  RankOneTokens<T> at(const KernelRankOne& s, int64_t t) const {
    const int64_t D = s.decay == KernelDecay::kPerKey ? s.key_dim : 1, keys = t * s.kv_heads * s.key_dim;
    return {q.data() + t * s.heads * s.key_dim, k.data() + keys, v.data() + t * s.kv_heads * s.value_dim,
            s.decay == KernelDecay::kNone ? nullptr : l.data() + t * s.kv_heads * D, a.data() + keys, s.delta ? nullptr : b.data() + keys};
  }
};

// Keys as the mixers make them: unit vectors u, k = beta u, a = -u (delta); a = -u, b = strength o u, k anything (rank one).
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
  const int64_t keys = c.tokens * s.kv_heads * s.key_dim;
  fill(d.q, c.tokens * s.heads * s.key_dim, [&] { return normal(random); });
  fill(d.v, c.tokens * s.kv_heads * s.value_dim, [&] { return normal(random); });
  fill(d.l, keys, [&] { return -c.strongest * uniform(random); });
  fill(d.a, keys, [&] { return normal(random); });
  fill(d.k, keys, [&] { return normal(random); });
  fill(d.b, s.delta ? 0 : keys, [&] { return uniform(random); });
  for (int64_t row = 0; row < keys; row += s.key_dim) {
    double squares = 1e-12;
    for (int i = 0; i < s.key_dim; ++i) squares += d.a[size_t(row + i)] * d.a[size_t(row + i)];
    const double beta = 1.9 * uniform(random);
    for (int i = 0; i < s.key_dim; ++i) {
      const double u = d.a[size_t(row + i)] / std::sqrt(squares);
      d.a[size_t(row + i)] = float(-u);
      if (s.delta) d.k[size_t(row + i)] = float(beta * u);
      else d.b[size_t(row + i)] = float(d.b[size_t(row + i)] * u);
    }
  }
  if (c.narrow) {
    for (auto* x : {&d.q, &d.k, &d.v, &d.l, &d.a, &d.b}) {
      for (double& e : *x) e = bf16_to_float(float_to_bf16(float(e)));
    }
  }
  return d;
}

template <class T>
std::vector<T> as(const std::vector<double>& x) { return {x.begin(), x.end()}; }
Data<float> to_float(const Data<double>& d) { return {as<float>(d.q), as<float>(d.k), as<float>(d.v), as<float>(d.l), as<float>(d.a), as<float>(d.b)}; }

// The definition, token by token.
std::vector<double> definition(const Case& c, const Data<double>& d) {
  const auto& s = c.spec;
  const size_t K = size_t(s.key_dim), V = size_t(s.value_dim), G = size_t(s.kv_heads), n = size_t(s.group());
  std::vector<double> out(size_t(c.tokens) * size_t(s.heads) * V), S(G * K * V, 0.0);
  for (size_t t = 0; t < size_t(c.tokens); ++t) {
    for (size_t g = 0; g < G; ++g) {
      const size_t row = t * G + g;
      std::vector<double> p(V, 0.0);
      for (size_t i = 0; i < K; ++i) {
        for (size_t j = 0; j < V; ++j) p[j] += d.a[row * K + i] * S[(g * K + i) * V + j];
      }
      for (size_t i = 0; i < K && int64_t(t) >= s.first_position; ++i) {
        const double l = s.decay == KernelDecay::kNone ? 0 : s.decay == KernelDecay::kScalar ? d.l[row] : d.l[row * K + i];
        const double k = d.k[row * K + i], b = s.delta ? k : d.b[row * K + i];
        for (size_t j = 0; j < V; ++j) S[(g * K + i) * V + j] = std::exp(l) * S[(g * K + i) * V + j] + b * p[j] + k * d.v[row * V + j];
      }
      for (size_t h = t * G * n + g * n; h < t * G * n + (g + 1) * n; ++h) {
        for (size_t i = 0; i < K; ++i) {
          for (size_t j = 0; j < V; ++j) out[h * V + j] += d.q[h * K + i] * S[(g * K + i) * V + j];
        }
      }
    }
  }
  return out;
}

// In pieces: chunked calls of the given lengths (0: one token with step), the state carried.
template <class T>
std::vector<T> run(const Case& c, const Data<T>& d, const std::vector<int64_t>& pieces, Arithmetic arithmetic = Arithmetic::kExact) {
  const auto& s = c.spec;
  std::vector<T> out(size_t(c.tokens * s.heads * s.value_dim), std::numeric_limits<T>::quiet_NaN());
  std::vector<T> state(size_t(s.kv_heads * s.state_size()), T(0));
  size_t i = 0;
  for (int64_t t = 0; t < c.tokens; ++i) {
    const int64_t piece = i < pieces.size() ? pieces[i] : c.tokens - t;
    const int64_t n = piece == 0 ? 1 : std::min(piece, c.tokens - t);
    for (int g = 0; g < s.kv_heads; ++g) {
      T* to = out.data() + t * s.heads * s.value_dim;
      T* own = state.data() + g * s.state_size();
      if (piece == 0) rank_one_step(s, g, t, d.at(s, t), own, to);
      else if constexpr (std::is_same_v<T, float>) rank_one_forward(s, g, n, t, d.at(s, t), own, to, arithmetic);
      else rank_one_forward(s, g, n, t, d.at(s, t), own, to);
    }
    t += n;
  }
  return out;
}

template <class A, class B>
double distance(const std::vector<A>& a, const std::vector<B>& b) {
  double most = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::fabs(double(a[i]) - double(b[i]));
    if (std::isnan(difference)) return INFINITY;
    most = std::max(most, difference);
    size = std::max(size, std::fabs(double(b[i])));
  }
  return most / std::max(size, 1e-30);
}

// With decays that fit one product per chunk (up to -0.2 and -0.5 a token), that just do or do not (-1.2, -2), and of up to -20 a token.
std::vector<Case> cases() {
  std::vector<Case> out;
  for (KernelDecay decay : {KernelDecay::kNone, KernelDecay::kScalar, KernelDecay::kPerKey}) {
    for (bool delta : {true, false}) {
      out.push_back({{decay, delta, 6, 2, 16, 8, 0}, 150});
      out.push_back({{decay, delta, 3, 3, 7, 5, 9}, 131});
      out.push_back({{decay, delta, 5, 1, 33, 70, 70}, 200});
      out.push_back({{decay, delta, 2, 2, 64, 64, 0}, 129, 0.5});
      out.push_back({{decay, delta, 1, 1, 1, 1, 0}, 65});
      if (decay == KernelDecay::kNone) continue;
      out.push_back({{decay, delta, 4, 2, 20, 19, 0}, 130, 1.2});
      out.push_back({{decay, delta, 4, 2, 20, 19, 0}, 130, 2.0});
      out.push_back({{decay, delta, 4, 2, 20, 19, 0}, 130, 20.0});
      out.push_back({{decay, delta, 4, 2, 64, 64, 0}, 150, 20.0, true});
    }
  }
  return out;
}

class RankOne : public testing::Test {
 protected:
  void SetUp() override { poison_scratch(true); }
  void TearDown() override {
    poison_scratch(false);
    set_active_isa(available_isas().back());
  }
};

TEST_F(RankOne, DoubleChunksAreTheDefinition) {
  for (const Case& c : cases()) {
    const auto d = random_data(c, 1);
    const auto want = definition(c, d);
    const std::vector<std::vector<int64_t>> splits = {{}, std::vector<int64_t>(size_t(c.tokens), 0), {1, 63, 2, 0, 0, 17}, {64, 64}, {5, 0, 70}};
    for (const auto& pieces : splits) EXPECT_LT(distance(run(c, d, pieces), want), 1e-11) << describe(c);
  }
}

// bf16 keeps 8 bits of each factor; the errors of many terms average out, those of one do not.
double fast_tolerance(const Case& c) { return c.spec.key_dim == 1 ? 3e-2 : 1e-2; }

TEST_F(RankOne, FloatFollowsDoubleOnEveryIsa) {
  for (Isa isa : available_isas()) {
    set_active_isa(isa);
    for (const Case& c : cases()) {
      const auto d = random_data(c, 2);
      const auto want = definition(c, d);
      // Sums of up to T K terms of either sign: eps sqrt(T K), with a factor for the spread.
      const double tolerance = 6e-8 * 16 * std::sqrt(double(c.tokens * c.spec.key_dim));
      for (const auto& pieces : {std::vector<int64_t>{}, std::vector<int64_t>(size_t(c.tokens), 0), std::vector<int64_t>{3, 0, 66}}) {
        EXPECT_LT(distance(run(c, to_float(d), pieces), want), tolerance) << isa_name(isa) << ' ' << describe(c);
      }
      EXPECT_LT(distance(run(c, to_float(d), {}, Arithmetic::kFast), want), fast_tolerance(c)) << isa_name(isa) << ' ' << describe(c);
    }
  }
}

std::vector<double> random_weights(const Case& c) {
  std::mt19937 random(7);
  std::normal_distribution<double> normal;
  std::vector<double> w(size_t(c.tokens * c.spec.heads * c.spec.value_dim));
  for (double& x : w) x = float(normal(random));
  return w;
}

// Of the sum of out with fixed weights.
template <class T>
Data<T> backward(const Case& c, const Data<T>& d, const std::vector<double>& weights, Arithmetic arithmetic = Arithmetic::kExact) {
  const auto& s = c.spec;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const int64_t D = s.decay == KernelDecay::kPerKey ? s.key_dim : s.decay == KernelDecay::kScalar ? 1 : 0;
  const auto filled = [&](size_t n) { return std::vector<T>(n, nan); };
  Data<T> g{filled(d.q.size()), filled(d.k.size()), filled(d.v.size()), filled(size_t(c.tokens * s.kv_heads * D)), filled(d.a.size()), filled(d.b.size())};
  const auto d_out = as<T>(weights);
  const RankOneGradients<T> to{g.q.data(), g.k.data(), g.v.data(), D ? g.l.data() : nullptr, g.a.data(), s.delta ? nullptr : g.b.data()};
  for (int head = 0; head < s.kv_heads; ++head) {
    if constexpr (std::is_same_v<T, float>) rank_one_backward(s, head, c.tokens, d.at(s, 0), d_out.data(), to, arithmetic);
    else rank_one_backward(s, head, c.tokens, d.at(s, 0), d_out.data(), to);
  }
  return g;
}

TEST_F(RankOne, GradientsAreFiniteDifferences) {
  for (const Case& c : cases()) {
    Data<double> d = random_data(c, 3);
    const auto weights = random_weights(c);
    const Data<double> g = backward(c, d, weights);
    const auto loss = [&] {
      const auto out = run(c, d, {});
      double sum = 0;
      for (size_t i = 0; i < out.size(); ++i) sum += weights[i] * out[i];
      return sum;
    };
    std::mt19937 random(5);
    const auto check = [&](const char* name, std::vector<double>& x, const std::vector<double>& gradient) {
      double size = 0;
      for (double e : gradient) size = std::max(size, std::fabs(e));
      for (int trial = 0; trial < 5 && !gradient.empty(); ++trial) {
        const size_t i = random() % gradient.size();
        const double kept = x[i], h = 1e-5;
        x[i] = kept + h;
        const double up = loss();
        x[i] = kept - h;
        const double down = loss();
        x[i] = kept;
        // Central differences: error h^2 of the third derivative, and rounding of the loss over h.
        EXPECT_NEAR(gradient[i], (up - down) / (2 * h), 2e-6 * (size + 1)) << name << "[" << i << "] " << describe(c);
      }
    };
    check("q", d.q, g.q);
    check("k", d.k, g.k);
    check("v", d.v, g.v);
    check("log_decay", d.l, g.l);
    check("erase", d.a, g.a);
    check("erase_key", d.b, g.b);
  }
}

TEST_F(RankOne, FloatGradientsFollowDoubleOnEveryIsa) {
  for (Isa isa : available_isas()) {
    set_active_isa(isa);
    for (const Case& c : cases()) {
      const auto d = random_data(c, 4);
      const auto weights = random_weights(c);
      const auto want = backward(c, d, weights);
      for (Arithmetic arithmetic : {Arithmetic::kExact, Arithmetic::kFast}) {
        const auto got = backward(c, to_float(d), weights, arithmetic);
        const double tolerance = arithmetic == Arithmetic::kExact ? 6e-8 * 32 * std::sqrt(double(c.tokens * c.spec.key_dim)) : 2 * fast_tolerance(c);
        EXPECT_LT(distance(got.q, want.q), tolerance) << "q " << isa_name(isa) << ' ' << describe(c);
        EXPECT_LT(distance(got.k, want.k), tolerance) << "k " << isa_name(isa) << ' ' << describe(c);
        EXPECT_LT(distance(got.v, want.v), tolerance) << "v " << isa_name(isa) << ' ' << describe(c);
        EXPECT_LT(distance(got.l, want.l), tolerance) << "log_decay " << isa_name(isa) << ' ' << describe(c);
        EXPECT_LT(distance(got.a, want.a), tolerance) << "erase " << isa_name(isa) << ' ' << describe(c);
        EXPECT_LT(distance(got.b, want.b), tolerance) << "erase_key " << isa_name(isa) << ' ' << describe(c);
      }
    }
  }
}

}  // namespace
}  // namespace retort
