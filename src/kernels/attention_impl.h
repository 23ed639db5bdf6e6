// attention.h for a simd struct S. Layer: kernels. Included by attention_*.cc only.
#pragma once

#include <algorithm>

#include "kernels/attention.h"
#include "kernels/rounding.h"
#include "kernels/simd_math.h"

namespace retort {

template <class S, class E>  // E: what the cache holds, float or bf16 bits
struct AttentionOver {
  using F = typename S::F;
  using M = SimdMath<S>;
  using Unit = AttentionScratch::Unit;
  static constexpr int kTile = 64;  // keys

  // How many vectors wide a register tile of R rows is. Packed operands are as wide, so that they are read from end to end.
  static constexpr int vectors_of(int R) { return S::kTileSums >= 4 * R ? 4 : S::kTileSums >= 2 * R ? 2 : 1; }
  static constexpr int kRows = 4, kPanel = 16 * vectors_of(kRows);

  static F load(const float* p) { return S::load(p); }
  static F load(const uint16_t* p) { return S::load_bf16(p); }
  static float value(float x) { return x; }
  static float value(uint16_t x) { return __builtin_bit_cast(float, uint32_t(x) << 16); }
  static constexpr float infinity() { return __builtin_inff(); }

  // ---- decoding: R query heads against keys [begin, end), read once ----

  struct Decode {
    const E *keys, *values;
    ptrdiff_t key_stride, value_stride;
    int64_t count, key_dim, value_dim;
    float scale;
  };

  // For caches that keep a token's heads side by side: hardware prefetchers follow such strides badly.
  static constexpr int kAhead = 32;  // keys
  static void prefetch(const E* p, int64_t n) {
    for (int64_t i = 0; i < n; i += int64_t(64 / sizeof(E))) __builtin_prefetch(p + i, 0, 3);
  }

  // scores[r, j] for 16 keys (rows beyond `n` repeat the last one)
  template <int R>
  static void scores16(const Decode& c, const float* q, const E* keys, int n, F (&scores)[R]) {
    F acc[R][16];
    for (int j = 0; j < 16; ++j) {
      const E* key = keys + (j < n ? j : n - 1) * c.key_stride;
      prefetch(keys + (j + kAhead) * c.key_stride, c.key_dim);
      F sum[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sum[r] = S::zero();
      for (int64_t i = 0; i < c.key_dim; i += 16) {
        const F k = load(key + i);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) sum[r] = S::fma(S::load(q + r * c.key_dim + i), k, sum[r]);
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) acc[r][j] = sum[r];
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) scores[r] = S::mul(S::sums(acc[r]), S::set1(c.scale));
  }

  // acc[r] = acc[r] * factor[r] + sum_j p[r, j] v[j]
  template <int R>
  static void add_values(const Decode& c, const float (*p)[kTile], const E* values, int n, const float* factor, float* acc,
                         ptrdiff_t acc_stride) {
    constexpr int kWidth = vectors_of(R);
    int64_t i = 0;
    for (; i + 16 * kWidth <= c.value_dim; i += 16 * kWidth) add_columns<R, kWidth>(c, p, values + i, n, factor, acc + i, acc_stride);
    for (; i < c.value_dim; i += 16) add_columns<R, 1>(c, p, values + i, n, factor, acc + i, acc_stride);
  }
  template <int R, int V>
  static void add_columns(const Decode& c, const float (*p)[kTile], const E* values, int n, const float* factor, float* acc,
                          ptrdiff_t acc_stride) {
    F sum[R][V];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = S::mul(S::load(acc + r * acc_stride + 16 * v), S::set1(factor[r]));
    for (int j = 0; j < n; ++j) {
      if constexpr (sizeof(E) == 2) prefetch(values + (j + kAhead) * c.value_stride, 16 * V);
      F x[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) x[v] = load(values + j * c.value_stride + 16 * v);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const F w = S::set1(p[r][j]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] = S::fma(w, x[v], sum[r][v]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) S::store(acc + r * acc_stride + 16 * v, sum[r][v]);
  }

  // One row of a tile of scores: p = exp(s - max), running maximum and sum; returns what older sums must be scaled by.
  static float soften(float* p, int vectors, float& most, float& sum) {
    F m = S::load(p);
    for (int i = 1; i < vectors; ++i) m = S::max(m, S::load(p + 16 * i));
    const float tile = S::max_of(m);
    const float next = tile > most ? tile : most;
    if (next == -infinity()) {  // nothing visible yet
      for (int i = 0; i < vectors; ++i) S::store(p + 16 * i, S::zero());
      return 1.0f;
    }
    const F base = S::set1(next);
    F s = S::zero();
    for (int i = 0; i < vectors; ++i) {
      const F e = M::exp(S::sub(S::load(p + 16 * i), base));
      S::store(p + 16 * i, e);
      s = S::add(s, e);
    }
    float factor[16];
    S::store(factor, M::exp(S::set1(most - next)));
    sum = sum * factor[0] + S::sum(s);
    most = next;
    return factor[0];
  }

  template <int R>
  static void decode_rows(const Decode& c, const float* q, float* partial) {
    const ptrdiff_t stride = c.value_dim + 2;
    float most[R], sum[R], factor[R];
    for (int r = 0; r < R; ++r) {
      most[r] = -infinity();
      sum[r] = 0;
      for (int64_t i = 0; i < c.value_dim; ++i) partial[r * stride + 2 + i] = 0;
    }
    for (int64_t j = 0; j < c.count; j += kTile) {
      const int n = int(c.count - j < kTile ? c.count - j : kTile), vectors = (n + 15) / 16;
      alignas(64) float p[R][kTile];
      for (int b = 0; b < vectors; ++b) {
        F scores[R];
        scores16<R>(c, q, c.keys + (j + 16 * b) * c.key_stride, n - 16 * b, scores);
        for (int r = 0; r < R; ++r) S::store(p[r] + 16 * b, scores[r]);
      }
      for (int r = 0; r < R; ++r) {
        for (int i = n; i < 16 * vectors; ++i) p[r][i] = -infinity();
        factor[r] = soften(p[r], vectors, most[r], sum[r]);
      }
      add_values<R>(c, p, c.values + j * c.value_stride, n, factor, partial + 2, stride);
    }
    for (int r = 0; r < R; ++r) {
      partial[r * stride] = most[r];
      partial[r * stride + 1] = sum[r];
    }
  }

  static void decode(const AttentionArgs& a, const Unit& u, float* partial) {
    const CacheSpan& s = a.cache[size_t(u.span)];
    const Decode c = {static_cast<const E*>(s.keys) + u.kv_head * s.key_head_stride + u.begin * s.key_stride,
                      static_cast<const E*>(s.values) + u.kv_head * s.value_head_stride + u.begin * s.value_stride,
                      s.key_stride, s.value_stride, u.end - u.begin, a.key_dim, a.value_dim, a.scale};
    const int64_t rows = a.heads / a.kv_heads;
    const float* q = a.q + u.token * a.q_stride + u.kv_head * rows * a.key_dim;
    for (int64_t r = 0; r < rows;) {
      float* out = partial + r * (a.value_dim + 2);
      const float* row = q + r * a.key_dim;
      switch (rows - r) {
        case 1: decode_rows<1>(c, row, out); r += 1; break;
        case 2: decode_rows<2>(c, row, out); r += 2; break;
        case 3: decode_rows<3>(c, row, out); r += 3; break;
        default: decode_rows<4>(c, row, out); r += 4; break;
      }
    }
  }

  // ---- prefill: a block of query rows against tiles of packed keys ----

  struct Buffers {
    int64_t rows, value_dim;  // rows: a multiple of kRows; value_dim: of 16
    float *q, *kt, *vt, *p, *acc, *most, *sum;
  };

  static int64_t layout(const AttentionArgs& a, int64_t tokens, float* base, Buffers& b) {
    b.rows = round_up(tokens * (a.heads / a.kv_heads), kRows);
    b.value_dim = round_up(a.value_dim, 16);
    int64_t used = 0;
    const auto take = [&](int64_t n) {
      float* p = base ? base + used : nullptr;
      used += round_up(n, 16);
      return p;
    };
    b.q = take(b.rows * a.key_dim);
    b.kt = take(a.key_dim * kTile);                        // [kTile / kPanel, key_dim, kPanel]
    b.vt = take(kTile * round_up(b.value_dim, kPanel));    // [value_dim / kPanel, kTile, kPanel]
    b.p = take(b.rows * kTile);
    b.acc = take(b.rows * b.value_dim);
    b.most = take(b.rows);
    b.sum = take(b.rows);
    return used;
  }
  static int64_t prefill_scratch(const AttentionArgs& a, int64_t tokens) {
    Buffers b;
    return layout(a, tokens, nullptr, b);
  }

  static void pack_tile(const AttentionArgs& a, const CacheSpan& s, int64_t kv_head, int64_t first, int n, const Buffers& b) {
    const E* keys = static_cast<const E*>(s.keys) + kv_head * s.key_head_stride + first * s.key_stride;
    const E* values = static_cast<const E*>(s.values) + kv_head * s.value_head_stride + first * s.value_stride;
    for (int j = 0; j < kTile; ++j) {
      const E* key = keys + j * s.key_stride;
      const E* v = values + j * s.value_stride;
      float* column = b.kt + j / kPanel * kPanel * a.key_dim + j % kPanel;
      for (int64_t i = 0; i < a.key_dim; ++i) column[i * kPanel] = j < n ? value(key[i]) : 0.0f;
      for (int64_t i0 = 0; i0 < b.value_dim; i0 += kPanel) {
        float* out = b.vt + i0 * kTile + j * kPanel;
        const int64_t end = std::min<int64_t>(kPanel, b.value_dim - i0), given = j < n ? std::clamp<int64_t>(a.value_dim - i0, 0, end) : 0;
        for (int64_t i = 0; i < given; ++i) out[i] = value(v[i0 + i]);
        for (int64_t i = given; i < end; ++i) out[i] = 0.0f;
      }
    }
  }

  // p[kRows, kPanel of 64] = q[kRows, key_dim] kt[key_dim, kPanel]
  static void score_rows(const float* q, const float* kt, int64_t key_dim, float* p) {
    constexpr int V = kPanel / 16;
    F acc[kRows][V];
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) acc[r][v] = S::zero();
    for (int64_t i = 0; i < key_dim; ++i) {
      F k[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) k[v] = S::load(kt + i * kPanel + 16 * v);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const F x = S::set1(q[r * key_dim + i]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) acc[r][v] = S::fma(x, k[v], acc[r][v]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) S::store(p + r * kTile + 16 * v, acc[r][v]);
  }

  static bool visible(const AttentionArgs& a, int64_t query, int64_t position) {
    return position <= query && (a.window <= 0 || position > query - a.window || position < a.sinks);
  }

  struct TileRange {
    int64_t position;    // of its first key
    int n;
    int64_t first_query, last_query;
    bool skipped, whole;  // no query sees any key; every query sees all
  };
  static TileRange tile_range(const AttentionArgs& a, const Unit& u, int64_t position, int n) {
    TileRange t{position, n, a.first_position + u.token, a.first_position + u.end_token - 1, false, false};
    const int64_t last = position + n - 1;
    t.skipped = position > t.last_query ||
                (a.window > 0 && last <= t.first_query - a.window && position >= a.sinks);
    t.whole = n == kTile && last <= t.first_query &&
              (a.window <= 0 || position > t.last_query - a.window || last < a.sinks);
    return t;
  }

  static void tile(const AttentionArgs& a, const Unit& u, const TileRange& range, const Buffers& b) {
    const int64_t heads = a.heads / a.kv_heads, rows = (u.end_token - u.token) * heads;
    using Floats = AttentionOver<S, float>;
    for (int64_t r = 0; r < b.rows; r += kRows) {
      float* p = b.p + r * kTile;
      for (int64_t j = 0; j < kTile; j += kPanel) score_rows(b.q + r * a.key_dim, b.kt + j * a.key_dim, a.key_dim, p + j);
      float factor[kRows];
      for (int64_t i = 0; i < kRows; ++i) {
        const int64_t query = range.first_query + (r + i < rows ? (r + i) / heads : 0);
        if (!range.whole)
          for (int j = 0; j < kTile; ++j)
            if (j >= range.n || !visible(a, query, range.position + j)) p[i * kTile + j] = -infinity();
        factor[i] = soften(p + i * kTile, kTile / 16, b.most[r + i], b.sum[r + i]);
      }
      for (int64_t i = 0; i < b.value_dim; i += kPanel) {
        const typename Floats::Decode c = {nullptr, nullptr, 0, kPanel, kTile, 0, std::min<int64_t>(kPanel, b.value_dim - i), 0};
        Floats::template add_values<kRows>(c, reinterpret_cast<const float(*)[kTile]>(p), b.vt + i * kTile, kTile, factor,
                                           b.acc + r * b.value_dim + i, b.value_dim);
      }
    }
  }

  static void finish(const AttentionArgs& a, const Unit& u, const Buffers& b) {
    const int64_t heads = a.heads / a.kv_heads;
    for (int64_t r = 0; r < (u.end_token - u.token) * heads; ++r) {
      const int64_t t = u.token + r / heads, h = u.kv_head * heads + r % heads;
      const float inverse = b.sum[r] > 0 ? 1.0f / b.sum[r] : b.sum[r] == 0 ? 0.0f : b.sum[r];
      float* out = a.out + t * a.out_stride + h * a.value_dim;
      for (int64_t i = 0; i < a.value_dim; ++i) out[i] = b.acc[r * b.value_dim + i] * inverse;
      if (a.log_norm) a.log_norm[t * a.log_norm_stride + h] = b.most[r] + __builtin_logf(b.sum[r]);
    }
  }

  static void prefill(const AttentionArgs& a, const Unit& u, float* scratch) {
    Buffers b;
    layout(a, u.end_token - u.token, scratch, b);
    const int64_t heads = a.heads / a.kv_heads, rows = (u.end_token - u.token) * heads;
    for (int64_t r = 0; r < b.rows; ++r) {
      const float* q = a.q + (u.token + r / heads) * a.q_stride + (u.kv_head * heads + r % heads) * a.key_dim;
      for (int64_t i = 0; i < a.key_dim; ++i) b.q[r * a.key_dim + i] = r < rows ? q[i] * a.scale : 0.0f;
      for (int64_t i = 0; i < b.value_dim; ++i) b.acc[r * b.value_dim + i] = 0;
      b.most[r] = -infinity();
      b.sum[r] = 0;
    }
    for (const CacheSpan& s : a.cache) {
      for (int64_t j = 0; j < s.count; j += kTile) {
        const int n = int(s.count - j < kTile ? s.count - j : kTile);
        const TileRange range = tile_range(a, u, s.first_position + j, n);
        if (range.skipped) continue;
        pack_tile(a, s, u.kv_head, j, n, b);
        tile(a, u, range, b);
      }
    }
    finish(a, u, b);
  }
};

template <class S>
struct Attention {
  using F = typename S::F;
  using Unit = AttentionScratch::Unit;

  static void decode(const AttentionArgs& a, const Unit& u, float* partial) {
    if (a.type == CacheType::kF32) AttentionOver<S, float>::decode(a, u, partial);
    else AttentionOver<S, uint16_t>::decode(a, u, partial);
  }
  static void prefill(const AttentionArgs& a, const Unit& u, float* scratch) {
    if (a.type == CacheType::kF32) AttentionOver<S, float>::prefill(a, u, scratch);
    else AttentionOver<S, uint16_t>::prefill(a, u, scratch);
  }

  static void combine(const float* partials, int64_t count, int64_t stride, int64_t value_dim, float* out, float* log_norm) {
    float most = partials[0];
    for (int64_t i = 1; i < count; ++i) most = partials[i * stride] > most ? partials[i * stride] : most;
    float sum = 0;
    for (int64_t c = 0; c < value_dim; ++c) out[c] = 0;
    for (int64_t i = 0; i < count; ++i) {
      const float* p = partials + i * stride;
      float weight[16];
      S::store(weight, SimdMath<S>::exp(S::set1(p[0] - most)));
      sum += weight[0] * p[1];
      const F w = S::set1(weight[0]);
      for (int64_t c = 0; c < value_dim; c += 16) S::store(out + c, S::fma(w, S::load(p + 2 + c), S::load(out + c)));
    }
    const F inverse = S::set1(1.0f / sum);
    for (int64_t c = 0; c < value_dim; c += 16) S::store(out + c, S::mul(S::load(out + c), inverse));
    *log_norm = most + __builtin_logf(sum);
  }

  static const AttentionKernels& table() {
    static const AttentionKernels kernels = {AttentionOver<S, float>::prefill_scratch, prefill, decode, combine};
    return kernels;
  }
};

}  // namespace retort
