#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "base/half.h"

namespace retort {
namespace {

struct Shape {
  int64_t tokens, past, heads, kv_heads, d, dv, window, sinks;
};

// Keys and values of every position, and a ring that holds them where a window is set: [positions, kv_heads, d].
struct Problem {
  Shape s;
  CacheType type;
  std::vector<float> q, k, v;
  std::vector<uint16_t> kb, vb;
  std::vector<CacheSpan> spans;

  Problem(const Shape& shape, CacheType t, int pieces) : s(shape), type(t) {
    std::mt19937 rng(3);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& x, int64_t n) {
      x.resize(size_t(n));
      for (float& y : x) y = normal(rng);
    };
    const int64_t positions = s.past + s.tokens;
    fill(q, s.tokens * s.heads * s.d);
    fill(k, positions * s.kv_heads * s.d);
    fill(v, positions * s.kv_heads * s.dv);
    for (float x : k) kb.push_back(float_to_bf16(x));
    for (float x : v) vb.push_back(float_to_bf16(x));
    if (type == CacheType::kBf16) {
      for (size_t i = 0; i < k.size(); ++i) k[i] = bf16_to_float(kb[i]);
      for (size_t i = 0; i < v.size(); ++i) v[i] = bf16_to_float(vb[i]);
    }
    for (int i = 0; i < pieces; ++i) {
      const int64_t begin = positions * i / pieces, end = positions * (i + 1) / pieces;
      CacheSpan span;
      const int64_t ko = begin * s.kv_heads * s.d, vo = begin * s.kv_heads * s.dv;
      span.keys = type == CacheType::kF32 ? static_cast<const void*>(&k[ko]) : &kb[ko];
      span.values = type == CacheType::kF32 ? static_cast<const void*>(&v[vo]) : &vb[vo];
      span.key_stride = s.kv_heads * s.d;
      span.key_head_stride = s.d;
      span.value_stride = s.kv_heads * s.dv;
      span.value_head_stride = s.dv;
      span.first_position = begin;
      span.count = end - begin;
      spans.push_back(span);
    }
  }

  AttentionArgs args(float* out, float* log_norm) const {
    AttentionArgs a;
    a.q = q.data();
    a.q_stride = s.heads * s.d;
    a.tokens = s.tokens;
    a.first_position = s.past;
    a.heads = s.heads;
    a.kv_heads = s.kv_heads;
    a.key_dim = s.d;
    a.value_dim = s.dv;
    a.type = type;
    a.cache = spans;
    a.scale = float(1 / std::sqrt(double(s.d)));
    a.window = s.window;
    a.sinks = s.sinks;
    a.out = out;
    a.out_stride = s.heads * s.dv;
    a.log_norm = log_norm;
    a.log_norm_stride = s.heads;
    return a;
  }

  void reference(std::vector<double>& out, std::vector<double>& log_norm) const {
    for (int64_t t = 0; t < s.tokens; ++t) {
      for (int64_t h = 0; h < s.heads; ++h) {
        const int64_t g = h / (s.heads / s.kv_heads), position = s.past + t;
        std::vector<double> acc(size_t(s.dv), 0.0);
        double sum = 0;
        for (int64_t p = 0; p <= position; ++p) {
          if (s.window > 0 && p <= position - s.window && p >= s.sinks) continue;
          double score = 0;
          for (int64_t i = 0; i < s.d; ++i)
            score += double(q[(t * s.heads + h) * s.d + i]) * k[(p * s.kv_heads + g) * s.d + i];
          const double w = std::exp(score / std::sqrt(double(s.d)));
          sum += w;
          for (int64_t i = 0; i < s.dv; ++i) acc[i] += w * v[(p * s.kv_heads + g) * s.dv + i];
        }
        for (double x : acc) out.push_back(x / sum);
        log_norm.push_back(std::log(sum));
      }
    }
  }
};

const Shape kShapes[] = {
    {1, 0, 9, 3, 64, 64, 0, 0},    {1, 700, 9, 3, 64, 64, 0, 0},  {3, 300, 4, 4, 32, 80, 0, 0},  {1, 90, 14, 2, 128, 128, 0, 0},
    {70, 0, 9, 3, 64, 64, 0, 0},   {65, 130, 6, 2, 64, 64, 0, 0}, {9, 5, 3, 1, 20, 12, 0, 0},    {2, 40, 2, 1, 24, 7, 0, 0},
    {1, 500, 9, 3, 64, 64, 64, 4}, {1, 10, 9, 3, 64, 64, 64, 4},  {200, 100, 3, 3, 16, 16, 64, 4}, {150, 3, 9, 3, 64, 64, 32, 0},
};

TEST(Attention, AgreesWithDoublesOnEveryIsa) {
  ThreadPool pool(2);
  for (const Shape& s : kShapes) {
    for (CacheType type : {CacheType::kF32, CacheType::kBf16}) {
      for (int pieces : {1, 3}) {
        const Problem problem(s, type, pieces);
        std::vector<double> want, want_norm;
        problem.reference(want, want_norm);
        std::vector<float> first;
        for (Isa isa : available_isas()) {
          SCOPED_TRACE(cat(isa_name(isa), " tokens ", s.tokens, " past ", s.past, " heads ", s.heads, "/", s.kv_heads, " d ", s.d,
                           " window ", s.window, " pieces ", pieces));
          std::vector<float> out(want.size() + 1, NAN), norm(want_norm.size() + 1, NAN);
          AttentionScratch scratch;
          attention(pool, problem.args(out.data(), norm.data()), scratch, isa);
          // Scores of size ~4 with f32 rounding of about d additions: 1e-6 relative in every weight.
          for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(out[i], want[i], 5e-6) << i;
          for (size_t i = 0; i < want_norm.size(); ++i) ASSERT_NEAR(norm[i], want_norm[i], 5e-6) << i;
          ASSERT_TRUE(std::isnan(out.back()) && std::isnan(norm.back()));
          out.pop_back();
          if (first.empty()) first = out;
          ASSERT_EQ(std::memcmp(first.data(), out.data(), out.size() * 4), 0) << "not the scalar bits";
        }
      }
    }
  }
}

TEST(Attention, ThreadsDoNotChangeTheResultAndSequencesDoNotMix) {
  ThreadPool one(1), three(3);
  const Problem a({1, 900, 9, 3, 64, 64, 0, 0}, CacheType::kBf16, 1), b({40, 33, 9, 3, 64, 64, 0, 0}, CacheType::kBf16, 2);
  for (Isa isa : available_isas()) {
    std::vector<float> alone_a(9 * 64), alone_b(40 * 9 * 64), both_a(9 * 64, NAN), both_b(40 * 9 * 64, NAN);
    AttentionScratch scratch;
    attention(one, a.args(alone_a.data(), nullptr), scratch, isa);
    attention(one, b.args(alone_b.data(), nullptr), scratch, isa);
    const AttentionArgs tasks[] = {a.args(both_a.data(), nullptr), b.args(both_b.data(), nullptr)};
    attention(three, tasks, scratch, isa);
    EXPECT_EQ(alone_a, both_a) << isa_name(isa);
    EXPECT_EQ(alone_b, both_b) << isa_name(isa);
  }
}

TEST(Attention, NothingVisibleGivesZerosAndMinusInfinity) {
  ThreadPool pool(1);
  for (int64_t tokens : {int64_t(1), int64_t(8)}) {
    Problem p({tokens, 0, 3, 1, 64, 64, 0, 0}, CacheType::kF32, 1);
    p.spans[0].first_position = 100;
    std::vector<float> out(size_t(tokens * 3 * 64), NAN), norm(size_t(tokens * 3), NAN);
    AttentionScratch scratch;
    attention(pool, p.args(out.data(), norm.data()), scratch);
    for (float x : out) EXPECT_EQ(x, 0.0f);
    for (float x : norm) EXPECT_EQ(x, -INFINITY);
  }
}

}  // namespace
}  // namespace retort
