#include "kernels/recurrence.h"

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
  KernelRecurrence spec;
  int64_t tokens;
  double strongest = 0.2;  // log-decays are in [-strongest, 0]
  bool narrow = false;     // inputs have 8 significant bits, as bf16 activations have
};

std::string describe(const Case& c) {
  const char* decay = c.spec.decay == KernelDecay::kNone ? "none" : c.spec.decay == KernelDecay::kScalar ? "scalar" : "per_key";
  const char* normaliser[] = {"", " sum", " at least one"};
  return std::string(decay) + normaliser[int(c.spec.normaliser)] + " H=" + std::to_string(c.spec.heads) + " G=" +
         std::to_string(c.spec.kv_heads) + " K=" + std::to_string(c.spec.key_dim) + " V=" + std::to_string(c.spec.value_dim) +
         " T=" + std::to_string(c.tokens) + " first=" + std::to_string(c.spec.first_position) + " eps=" +
         std::to_string(c.spec.norm_eps) + " decay to -" + std::to_string(c.strongest) + (c.narrow ? " bf16" : "");
}

bool joins(const KernelRecurrence& s) { return s.normaliser == KernelNormaliser::kSum; }

template <class T>
struct Data {
  std::vector<T> q, k, v, l, offset;
  RecurrenceTokens<T> at(const KernelRecurrence& s, int64_t t) const {
    const int64_t D = s.decay == KernelDecay::kPerKey ? s.key_dim : 1;
    return {q.data() + t * s.heads * s.key_dim, k.data() + t * s.kv_heads * s.key_dim, v.data() + t * s.kv_heads * s.value_dim,
            s.decay == KernelDecay::kNone ? nullptr : l.data() + t * s.kv_heads * D, joins(s) ? offset.data() + t * s.heads : nullptr};
  }
};

Data<double> random_data(const Case& c, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform(0.01, 1);
  const auto& s = c.spec;
  const auto fill = [&](std::vector<double>& x, int64_t n, auto&& draw) {
    x.resize(n);
    for (double& e : x) e = float(draw());
  };
  Data<double> d;
  const auto feature = [&] { return joins(s) ? uniform(random) : normal(random); };
  // Sums on both sides of 1.
  const double size = s.normaliser == KernelNormaliser::kAtLeastOne ? 0.25 / std::sqrt(double(s.key_dim)) : 1;
  fill(d.q, c.tokens * s.heads * s.key_dim, [&] { return size * feature(); });
  fill(d.k, c.tokens * s.kv_heads * s.key_dim, feature);
  fill(d.v, c.tokens * s.kv_heads * s.value_dim, [&] { return normal(random); });
  fill(d.l, c.tokens * s.kv_heads * s.key_dim, [&] { return -c.strongest * uniform(random); });
  fill(d.offset, c.tokens * s.heads, [&] { return normal(random); });
  if (c.narrow) {
    for (auto* x : {&d.q, &d.k, &d.v, &d.l}) {
      for (double& e : *x) e = bf16_to_float(float_to_bf16(float(e)));
    }
  }
  return d;
}

template <class T>
std::vector<T> as(const std::vector<double>& x) { return {x.begin(), x.end()}; }
Data<float> to_float(const Data<double>& d) { return {as<float>(d.q), as<float>(d.k), as<float>(d.v), as<float>(d.l), as<float>(d.offset)}; }

template <class T>
struct Outputs {
  std::vector<T> out, log_norm;
};

// The definition, token by token, with S in the plainest layout.
Outputs<double> definition(const Case& c, const Data<double>& d) {
  const auto& s = c.spec;
  const int K = s.key_dim, V = s.value_dim, n = s.group();
  Outputs<double> r{std::vector<double>(c.tokens * s.heads * V), std::vector<double>(c.tokens * s.heads, kKernelNothingWritten)};
  std::vector<double> S(s.kv_heads * K * (V + 1), 0.0);
  for (int64_t t = 0; t < c.tokens; ++t) {
    for (int g = 0; g < s.kv_heads; ++g) {
      for (int i = 0; i < K && t >= s.first_position; ++i) {
        const double l = s.decay == KernelDecay::kNone ? 0 : s.decay == KernelDecay::kScalar ? d.l[t * s.kv_heads + g] : d.l[(t * s.kv_heads + g) * K + i];
        for (int j = 0; j <= V; ++j) {
          double& x = S[(g * K + i) * (V + 1) + j];
          x = std::exp(l) * x + d.k[(t * s.kv_heads + g) * K + i] * (j < V ? d.v[(t * s.kv_heads + g) * V + j] : 1.0);
        }
      }
      for (int h = g * n; h < (g + 1) * n; ++h) {
        std::vector<double> y(V + 1, 0.0);
        for (int i = 0; i < K; ++i) {
          for (int j = 0; j <= V; ++j) y[j] += d.q[(t * s.heads + h) * K + i] * S[(g * K + i) * (V + 1) + j];
        }
        const double norm = joins(s) ? (y[V] > 0 ? y[V] + s.norm_eps : 0) : s.normalised() ? std::max(std::fabs(y[V]), 1.0) : 1;
        for (int j = 0; j < V; ++j) r.out[(t * s.heads + h) * V + j] = norm > 0 ? y[j] / norm : 0;
        if (joins(s) && norm > 0) r.log_norm[t * s.heads + h] = std::log(norm) + d.offset[t * s.heads + h];
      }
    }
  }
  return r;
}

// In pieces: chunked calls of the given lengths (0: token by token with step), the state carried.
template <class T>
Outputs<T> run(const Case& c, const Data<T>& d, const std::vector<int64_t>& pieces, Arithmetic arithmetic = Arithmetic::kExact) {
  const auto& s = c.spec;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  Outputs<T> r{std::vector<T>(c.tokens * s.heads * s.value_dim, nan), std::vector<T>(c.tokens * s.heads, nan)};
  if (!joins(s)) r.log_norm.assign(r.log_norm.size(), kKernelNothingWritten);
  std::vector<T> state(s.kv_heads * s.state_size(), T(0));
  int64_t t = 0;
  for (size_t i = 0; t < c.tokens; ++i) {
    const int64_t piece = i < pieces.size() ? pieces[i] : c.tokens - t;
    const int64_t n = piece == 0 ? 1 : std::min(piece, c.tokens - t);
    for (int g = 0; g < s.kv_heads; ++g) {
      T* out = r.out.data() + t * s.heads * s.value_dim;
      T* norm = joins(s) ? r.log_norm.data() + t * s.heads : nullptr;
      T* own = state.data() + g * s.state_size();
      if (piece == 0) recurrence_step(s, g, t, d.at(s, t), own, out, norm);
      else if constexpr (std::is_same_v<T, float>) recurrence_forward(s, g, n, t, d.at(s, t), own, out, norm, arithmetic);
      else recurrence_forward(s, g, n, t, d.at(s, t), own, out, norm);
    }
    t += n;
  }
  return r;
}

template <class A, class B>
double distance(const std::vector<A>& a, const std::vector<B>& b) {
  double most = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    if (double(b[i]) == kKernelNothingWritten && double(a[i]) == kKernelNothingWritten) continue;
    const double difference = std::fabs(double(a[i]) - double(b[i]));
    if (std::isnan(difference)) return INFINITY;
    most = std::max(most, difference);
    size = std::max(size, std::fabs(double(b[i])));
  }
  return most / std::max(size, 1e-30);
}

std::vector<Case> cases() {
  std::vector<Case> out;
  for (KernelDecay decay : {KernelDecay::kNone, KernelDecay::kScalar, KernelDecay::kPerKey}) {
    for (KernelNormaliser normaliser : {KernelNormaliser::kNone, KernelNormaliser::kSum, KernelNormaliser::kAtLeastOne}) {
      out.push_back({{decay, 6, 2, 16, 8, normaliser}, 150});
      out.push_back({{decay, 3, 3, 7, 5, normaliser, 0, 9}, 131});
      out.push_back({{decay, 5, 1, 33, 70, normaliser, 0, 70}, 200});
      out.push_back({{decay, 1, 1, 1, 1, normaliser}, 65});
      for (double strongest : {1.2, 20.0}) {
        if (decay == KernelDecay::kNone) continue;
        out.push_back({{decay, 4, 2, 20, 19, normaliser}, 130, strongest});
        out.push_back({{decay, 2, 1, 64, 64, normaliser}, 150, strongest, true});
      }
      if (normaliser == KernelNormaliser::kSum) out.push_back({{decay, 4, 2, 12, 9, normaliser, 0.5, 7}, 90});
    }
  }
  return out;
}

class EveryIsa : public testing::Test {
 protected:
  void SetUp() override { poison_scratch(true); }
  void TearDown() override {
    poison_scratch(false);
    set_active_isa(available_isas().back());
  }
};
using Recurrence = EveryIsa;

TEST_F(Recurrence, DoubleChunksAreTheDefinition) {
  for (const Case& c : cases()) {
    const auto d = random_data(c, 1);
    const auto want = definition(c, d);
    const std::vector<std::vector<int64_t>> splits = {{}, std::vector<int64_t>(c.tokens, 0), {1, 63, 2, 0, 0, 17}, {64, 64}, {5, 0, 70}};
    for (const auto& pieces : splits) {
      const auto got = run(c, d, pieces);
      EXPECT_LT(distance(got.out, want.out), 1e-12) << describe(c);
      EXPECT_LT(distance(got.log_norm, want.log_norm), 1e-12) << describe(c);
    }
  }
}

TEST_F(Recurrence, FloatFollowsDoubleOnEveryIsa) {
  for (Isa isa : available_isas()) {
    set_active_isa(isa);
    for (const Case& c : cases()) {
      const auto d = random_data(c, 2);
      const auto want = definition(c, d);
      // Sums of up to T K terms of either sign: eps sqrt(T K), with a factor for the spread.
      const double tolerance = 6e-8 * 16 * std::sqrt(double(c.tokens * c.spec.key_dim));
      for (const auto& pieces : {std::vector<int64_t>{}, std::vector<int64_t>(c.tokens, 0), std::vector<int64_t>{3, 0, 66}}) {
        const auto got = run(c, to_float(d), pieces);
        EXPECT_LT(distance(got.out, want.out), tolerance) << isa_name(isa) << ' ' << describe(c);
        EXPECT_LT(distance(got.log_norm, want.log_norm), tolerance) << isa_name(isa) << ' ' << describe(c);
      }
      // bf16 keeps 8 bits of each factor; the errors of many terms average out.
      const auto fast = run(c, to_float(d), {}, Arithmetic::kFast);
      EXPECT_LT(distance(fast.out, want.out), 1e-2) << isa_name(isa) << ' ' << describe(c);
    }
  }
}

// A scalar loss: sum of out and log_norm with fixed random weights.
struct Loss {
  std::vector<double> out, log_norm;
  double operator()(const Case& c, const Data<double>& d) const {
    const auto r = run(c, d, {});
    double sum = 0;
    for (size_t i = 0; i < out.size(); ++i) sum += out[i] * r.out[i];
    for (size_t i = 0; i < log_norm.size() && joins(c.spec); ++i) {
      if (r.log_norm[i] != kKernelNothingWritten) sum += log_norm[i] * r.log_norm[i];
    }
    return sum;
  }
};

Loss random_loss(const Case& c) {
  std::mt19937 random(7);
  std::normal_distribution<double> normal;
  Loss loss{std::vector<double>(c.tokens * c.spec.heads * c.spec.value_dim), std::vector<double>(c.tokens * c.spec.heads)};
  for (double& x : loss.out) x = float(normal(random));
  for (double& x : loss.log_norm) x = float(normal(random));
  return loss;
}

template <class T>
Data<T> backward(const Case& c, const Data<T>& d, const Loss& loss, Arithmetic arithmetic = Arithmetic::kExact) {
  const auto& s = c.spec;
  const auto r = run(c, d, {}, arithmetic);
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const int64_t D = s.decay == KernelDecay::kPerKey ? s.key_dim : s.decay == KernelDecay::kScalar ? 1 : 0;
  Data<T> g{std::vector<T>(d.q.size(), nan), std::vector<T>(d.k.size(), nan), std::vector<T>(d.v.size(), nan),
            std::vector<T>(c.tokens * s.kv_heads * D, nan), std::vector<T>(joins(s) ? d.offset.size() : 0, nan)};
  const auto d_out = as<T>(loss.out), d_norm = as<T>(loss.log_norm);
  const RecurrenceGradients<T> to{g.q.data(), g.k.data(), g.v.data(), D ? g.l.data() : nullptr, joins(s) ? g.offset.data() : nullptr};
  for (int head = 0; head < s.kv_heads; ++head) {
    const T* norm = joins(s) ? d_norm.data() : nullptr;
    if constexpr (std::is_same_v<T, float>) recurrence_backward(s, head, c.tokens, d.at(s, 0), r.out.data(), d_out.data(), norm, to, arithmetic);
    else recurrence_backward(s, head, c.tokens, d.at(s, 0), r.out.data(), d_out.data(), norm, to);
  }
  return g;
}

TEST_F(Recurrence, GradientsAreFiniteDifferences) {
  for (const Case& c : cases()) {
    Data<double> d = random_data(c, 3);
    const Loss loss = random_loss(c);
    const Data<double> g = backward(c, d, loss);
    std::mt19937 random(5);
    const auto check = [&](const char* name, std::vector<double>& x, const std::vector<double>& gradient) {
      double size = 0;
      for (double e : gradient) size = std::max(size, std::fabs(e));
      for (int trial = 0; trial < 12 && !gradient.empty(); ++trial) {
        const size_t i = random() % gradient.size();
        const double kept = x[i], h = 1e-5;
        x[i] = kept + h;
        const double up = loss(c, d);
        x[i] = kept - h;
        const double down = loss(c, d);
        x[i] = kept;
        // Central differences: error h^2 of the third derivative, and rounding of the loss over h.
        EXPECT_NEAR(gradient[i], (up - down) / (2 * h), 2e-6 * (size + 1)) << name << "[" << i << "] " << describe(c);
      }
    };
    check("q", d.q, g.q);
    check("k", d.k, g.k);
    check("v", d.v, g.v);
    check("log_decay", d.l, g.l);
    check("q_log_offset", d.offset, g.offset);
  }
}

TEST_F(Recurrence, FloatGradientsFollowDoubleOnEveryIsa) {
  for (Isa isa : available_isas()) {
    set_active_isa(isa);
    for (const Case& c : cases()) {
      const auto d = random_data(c, 4);
      const Loss loss = random_loss(c);
      const auto want = backward(c, d, loss);
      for (Arithmetic arithmetic : {Arithmetic::kExact, Arithmetic::kFast}) {
        const auto got = backward(c, to_float(d), loss, arithmetic);
        const double tolerance = arithmetic == Arithmetic::kExact ? 6e-8 * 32 * std::sqrt(double(c.tokens * c.spec.key_dim)) : 2e-2;
        EXPECT_LT(distance(got.q, want.q), tolerance) << isa_name(isa) << ' ' << describe(c);
        EXPECT_LT(distance(got.k, want.k), tolerance) << isa_name(isa) << ' ' << describe(c);
        EXPECT_LT(distance(got.v, want.v), tolerance) << isa_name(isa) << ' ' << describe(c);
        EXPECT_LT(distance(got.l, want.l), tolerance) << isa_name(isa) << ' ' << describe(c);
        EXPECT_LT(distance(got.offset, want.offset), tolerance) << isa_name(isa) << ' ' << describe(c);
      }
    }
  }
}

}  // namespace
}  // namespace retort
