// What forward and backward share about one chunk of 64 tokens: its decays and its scores.
//
// Layer: kernels. Template over a mode of small_gemm.h. Included by recurrence_impl.h only.
//
// lam is the cumulative sum of log-decays inside the chunk, its own token included. D, the columns of a decay: 0 (none),
// 1 (scalar) or K (per key).
//
// Per-key scores sum_d q_t k_s exp(lam_t - lam_s) are one product of q exp(lam) and k exp(-lam) while exp(-lam) is far from
// overflow (a gentle chunk). Otherwise blocks of 16 tokens: pairs in one block one by one, others split at the block's start.
// Factors exp(lam_t - lam_s) of a scalar decay are such products too, row by row.
#pragma once

#include "kernels/recurrence.h"
#include "kernels/small_gemm.h"

namespace retort {

constexpr int64_t kChunk = 64;
constexpr int64_t kBlock = 16;  // per-key decays: blocks of a chunk whose scores are computed pair by pair
// A chunk that keeps more than exp(-kGentle) of every key: e^40 is far from overflow, and rounding lam, which both forms do,
// costs as much as the split.
constexpr float kGentle = 40;

// What a chunk is in whatever mode its products are taken.
template <class T>
struct ChunkRows {
  const KernelRecurrence& spec;
  int64_t c, K, V, D, q_stride, k_stride, v_stride;
  const T* q;  // the chunk's first row, the kv head's first query head
  const T* k;
  const T* v;
  T* lam = nullptr;        // [c, D]
  T* from_start = nullptr; // [c, D]  exp(lam): what is left at a token of the state before the chunk
  T* to_end = nullptr;     // [c, D]  exp(lam_end - lam): what is left of a token at the chunk's end
  T* total = nullptr;      // [D]     exp(lam_end)
  T* pair_decay = nullptr; // [c, 64] scalar: exp(lam_t - lam_s) for s <= t
  T* growth = nullptr;     // [c, K]  per key, gentle chunks only: exp(-lam)

  ChunkRows(const KernelRecurrence& s, int kv_head, const RecurrenceTokens<T>& in, int64_t first, int64_t count)
      : spec(s), c(count), K(s.key_dim), V(s.value_dim),
        D(s.decay == KernelDecay::kNone ? 0 : s.decay == KernelDecay::kScalar ? 1 : K),
        q_stride(int64_t(s.heads) * K), k_stride(int64_t(s.kv_heads) * K), v_stride(int64_t(s.kv_heads) * V),
        q(in.q + first * q_stride + int64_t(kv_head) * s.group() * K), k(in.k + first * k_stride + kv_head * K),
        v(in.v + first * v_stride + kv_head * V) {}
};

template <class M>
struct RecurrenceChunk : ChunkRows<typename M::Real> {
  using T = typename M::Real;
  using U = typename M::Unit;
  using G = Gemm<M>;
  using L = Lanes<M>;
  using S = typename M::Simd;
  using Rows = ChunkRows<T>;
  using Rows::spec, Rows::c, Rows::K, Rows::V, Rows::D, Rows::q_stride, Rows::k_stride, Rows::v_stride, Rows::q, Rows::k, Rows::v;
  using Rows::lam, Rows::from_start, Rows::to_end, Rows::total, Rows::pair_decay, Rows::growth;

  explicit RecurrenceChunk(const Rows& rows) : Rows(rows) {}
  // Not `read`: only writes() and the state's decay will be asked for.
  RecurrenceChunk(ScratchFrame& frame, const KernelRecurrence& s, int kv_head, const RecurrenceTokens<T>& in, int64_t first, int64_t count,
                  bool read = true)
      : Rows(s, kv_head, in, first, count) {
    if (D > 0) set_decays(frame, in.log_decay + (first * s.kv_heads + kv_head) * D, read);
  }
  // The same tokens with other rows in the place of the keys, or of the queries (one head, as many as have a place).
  RecurrenceChunk writing(const T* rows) const {
    RecurrenceChunk r = *this;
    r.k = rows;
    return r;
  }
  RecurrenceChunk reading(const T* rows, int64_t stride, int64_t count) const {
    RecurrenceChunk r = *this;
    r.q = rows, r.q_stride = stride, r.c = count;
    return r;
  }

  void set_decays(ScratchFrame& frame, const T* l, bool read) {
    lam = frame.alloc<T>(c * D), to_end = frame.alloc<T>(c * D), total = frame.alloc<T>(D);
    for (int64_t t = 0; t < c; ++t) {
      for (int64_t d = 0; d < D; ++d) lam[t * D + d] = l[t * spec.kv_heads * D + d] + (t > 0 ? lam[(t - 1) * D + d] : T(0));
    }
    const T* end = lam + (c - 1) * D;
    for (int64_t t = 0; t < c; ++t) L::exp_difference(end, lam + t * D, to_end + t * D, D);
    L::exp_all(end, total, D);
    if (!read) return;
    from_start = frame.alloc<T>(c * D);
    L::exp_all(lam, from_start, c * D);
    if (per_key() && *std::min_element(end, end + D) > -kGentle) {
      growth = frame.alloc<T>(c * K);
      L::each(c * K, [&](int64_t i, int m) { L::store(growth + i, L::exp(S::sub(S::zero(), L::load(lam + i, m))), m); });
    }
    if (spec.decay == KernelDecay::kScalar) set_pair_decay(frame);
  }
  // Whether a row is a product depends on the tokens up to it alone, so that none depends on a later one.
  void set_pair_decay(ScratchFrame& frame) {
    pair_decay = frame.alloc<T>(c * kChunk);
    T* until = frame.alloc<T>(c);   // exp(-lam), where it is used
    T* same = frame.alloc<T>(c);
    for (int64_t t = 0; t < c; ++t) until[t] = std::min(-lam[t], T(kGentle));
    L::exp_all(until, until, c);
    for (int64_t t = 0; t < c; ++t) {
      T* row = pair_decay + t * kChunk;
      if (lam[t] > -kGentle) {
        L::scaled(until, from_start[t], row, t + 1);
      } else {
        std::fill(same, same + t + 1, lam[t]);
        L::exp_difference(same, lam, row, t + 1);
      }
    }
  }

  bool per_key() const { return spec.decay == KernelDecay::kPerKey; }
  const T* head_q(int h) const { return q + h * K; }

  // x times a factor per row, or per element: [c, K]
  void scale_rows(const T* x, int64_t ld, const T* factor, T* out, int64_t out_ld) const {
    for (int64_t t = 0; t < c; ++t) {
      if (per_key()) L::product(x + t * ld, factor + t * K, out + t * out_ld, K);
      else L::scaled(x + t * ld, factor[t], out + t * out_ld, K);
    }
  }
  void scale_rows(T* x, int64_t ld, const T* factor) const { scale_rows(x, ld, factor, x, ld); }
  T* scaled(ScratchFrame& frame, const T* x, int64_t ld, const T* factor) const {
    T* out = frame.alloc<T>(c * K);
    scale_rows(x, ld, factor, out, K);
    return out;
  }

  // k decayed to the chunk's end, what enters the state: {rows, stride}.
  std::pair<const T*, int64_t> writes(ScratchFrame& frame) const {
    if (D == 0) return {k, k_stride};
    return {scaled(frame, k, k_stride, to_end), K};
  }
  std::pair<const T*, int64_t> reads(ScratchFrame& frame, int h) const {
    if (D == 0) return {head_q(h), q_stride};
    return {scaled(frame, head_q(h), q_stride, from_start), K};
  }

  // What scores() and, when `backward`, score_gradient() need of the keys, shared by the query heads.
  struct Keys {
    Right<U> transposed{}, rows{};      // k; k exp(-lam) in a gentle chunk
    const T* before[kChunk / kBlock]{}; // per key: k_s exp(lam_ref - lam_s) for s < the block's first row. [s, K]
    Right<U> before_transposed[kChunk / kBlock]{};
  };
  Keys keys(ScratchFrame& frame, bool backward = false) const {
    Keys out;
    if (!per_key() || growth) {
      const T* x = growth ? scaled(frame, k, k_stride, growth) : k;
      const int64_t stride = growth ? K : k_stride;
      out.transposed = M::right_cols(frame, x, stride, c, K);
      if (backward) out.rows = M::right_rows(frame, x, stride, c, K);
      return out;
    }
    for (int64_t i0 = kBlock; i0 < c; i0 += kBlock) {
      T* x = frame.alloc<T>(i0 * K);
      const T* ref = lam + (i0 - 1) * K;
      for (int64_t s = 0; s < i0; ++s) L::decayed(k + s * k_stride, ref, lam + s * K, x + s * K, K);
      out.before[i0 / kBlock] = x;
      out.before_transposed[i0 / kBlock] = M::right_cols(frame, x, K, i0, K);
    }
    return out;
  }
  // q_t exp(lam_t - lam_ref) for a block's rows. [rows, K]
  T* block_reads(ScratchFrame& frame, int h, int64_t i0, int64_t rows) const {
    T* x = frame.alloc<T>(rows * K);
    const T* ref = lam + (i0 - 1) * K;
    for (int64_t t = 0; t < rows; ++t) L::decayed(head_q(h) + (i0 + t) * q_stride, lam + (i0 + t) * K, ref, x + t * K, K);
    return x;
  }

  // P[t, s] = sum_d q_t k_s exp(lam_t - lam_s) for s <= t, 0 for s > t. [c, 64]
  void scores(const Keys& keys, int h, T* p) const {
    ScratchFrame frame;
    if (per_key() && !growth) {
      scores_per_key(frame, keys, h, p);
    } else {
      const auto [x, stride] = growth ? reads(frame, h) : std::pair<const T*, int64_t>(head_q(h), q_stride);
      G::run(c, M::left_rows(frame, x, stride, c, K), keys.transposed, p, kChunk, false, UpTo{c}, Everything{K});
      if (pair_decay) apply_pair_decay(p);
    }
    clear_above(p);
  }
  void apply_pair_decay(T* p) const {
    for (int64_t t = 0; t < c; ++t) L::product(p + t * kChunk, pair_decay + t * kChunk, p + t * kChunk, t + 1);
  }
  // Scalar decay: the gradient of lam, given P and its gradient; the pairs of the same token have no decay. What a pair adds at its query
  // it takes away at its key, to the last bit: most of it goes again in the sum over later tokens.
  void add_score_decay(const T* p, const T* dp, T* d_lam) const {
    for (int64_t t = 1; t < c; ++t) d_lam[t] += L::move_products(dp + t * kChunk, p + t * kChunk, d_lam, t);
  }
  // Scalar decay: the same of rows that read (sign 1) or write (-1) the state, given their gradients.
  void add_row_decay(T sign, const T* x, int64_t ld, const T* dx, int64_t dx_ld, T* d_lam) const {
    for (int64_t t = 0; t < c; ++t) d_lam[t] += sign * dot<M>(x + t * ld, dx + t * dx_ld, K);
  }
  // Of log_decay: lam is its sum. `end` is the gradient of lam at the chunk's end alone.
  static void sum_later(const T* d_lam, T end, int64_t rows, T* dl, int64_t stride) {
    for (int64_t t = rows - 1; t >= 0; --t) dl[t * stride] = end += d_lam[t];
  }
  void clear_above(T* p) const {
    for (int64_t t = 0; t < c; ++t) std::fill(p + t * kChunk + t + 1, p + (t + 1) * kChunk, T(0));
  }
  void scores_per_key(ScratchFrame& frame, const Keys& keys, int h, T* p) const {
    T* decayed = frame.alloc<T>(K);
    for (int64_t i0 = 0; i0 < c; i0 += kBlock) {
      const int64_t rows = std::min(kBlock, c - i0);
      if (i0 > 0) {
        ScratchFrame inner;
        const T* x = block_reads(inner, h, i0, rows);
        G::run(rows, i0, K, M::left_rows(inner, x, K, rows, K), keys.before_transposed[i0 / kBlock], p + i0 * kChunk, kChunk, false);
      }
      for (int64_t t = i0; t < i0 + rows; ++t) {
        for (int64_t s = i0; s <= t; ++s) {
          L::decayed(k + s * k_stride, lam + t * K, lam + s * K, decayed, K);
          p[t * kChunk + s] = dot<M>(head_q(h) + t * q_stride, decayed, K);
        }
      }
    }
  }

  // Adds what dP passes on to a head's queries and to the keys; dq and dk are laid out as q and k. dP is 0 above the diagonal, per key
  // also on it, and for a scalar decay it has gone through apply_pair_decay().
  void score_gradient(const Keys& keys, int h, const T* dp, T* dq, T* dk) const {
    ScratchFrame frame;
    if (per_key() && !growth) return score_gradient_per_key(keys, h, dp, dq, dk);
    const auto left_rows = M::left_rows(frame, dp, kChunk, c, c), left_cols = M::left_cols(frame, dp, kChunk, c, c);
    if (!growth) {
      G::run(c, left_rows, keys.rows, dq, q_stride, true, Everything{K}, UpTo{c});
      G::run(c, left_cols, M::right_rows(frame, head_q(h), q_stride, c, K), dk, k_stride, true, Everything{K}, From{c});
      return;
    }
    const auto [x, stride] = reads(frame, h);
    T* d_reads = frame.alloc<T>(c * K);
    T* d_writes = frame.alloc<T>(c * K);
    G::run(c, left_rows, keys.rows, d_reads, K, false, Everything{K}, UpTo{c});
    G::run(c, left_cols, M::right_rows(frame, x, stride, c, K), d_writes, K, false, Everything{K}, From{c});
    for (int64_t t = 0; t < c; ++t) {
      L::add_product(d_reads + t * K, from_start + t * K, dq + t * q_stride, K);
      L::add_product(d_writes + t * K, growth + t * K, dk + t * k_stride, K);
    }
  }

  void score_gradient_per_key(const Keys& keys, int h, const T* dp, T* dq, T* dk) const {
    for (int64_t i0 = 0; i0 < c; i0 += kBlock) {
      ScratchFrame frame;
      const int64_t rows = std::min(kBlock, c - i0);
      if (i0 > 0) {
        const T* ref = lam + (i0 - 1) * K;
        const T* reads = block_reads(frame, h, i0, rows);
        const T* before = keys.before[i0 / kBlock];
        T* d_reads = frame.alloc<T>(rows * K);
        T* d_before = frame.alloc<T>(i0 * K);
        const T* block = dp + i0 * kChunk;
        G::run(rows, K, i0, M::left_rows(frame, block, kChunk, rows, i0), M::right_rows(frame, before, K, i0, K), d_reads, K, false);
        G::run(i0, K, rows, M::left_cols(frame, block, kChunk, rows, i0), M::right_rows(frame, reads, K, rows, K), d_before, K, false);
        for (int64_t t = 0; t < rows; ++t) L::add_decayed(d_reads + t * K, lam + (i0 + t) * K, ref, dq + (i0 + t) * q_stride, K);
        for (int64_t s = 0; s < i0; ++s) L::add_decayed(d_before + s * K, ref, lam + s * K, dk + s * k_stride, K);
      }
      for (int64_t t = i0; t < i0 + rows; ++t) {
        for (int64_t s = i0; s < t; ++s) {
          pair_gradient(lam + t * K, lam + s * K, dp[t * kChunk + s], head_q(h) + t * q_stride, k + s * k_stride, dq + t * q_stride, dk + s * k_stride);
        }
      }
    }
  }
  // One query and one key of an earlier token.
  void pair_gradient(const T* lam_t, const T* lam_s, T dp, const T* query, const T* key, T* dq, T* dk) const {
    L::each(K, [&](int64_t i, int m) {
      const auto weight = S::mul(S::set1(dp), L::exp(S::sub(L::load(lam_t + i, m), L::load(lam_s + i, m))));
      L::store(dq + i, S::fma(weight, L::load(key + i, m), L::load(dq + i, m)), m);
      L::store(dk + i, S::fma(weight, L::load(query + i, m), L::load(dk + i, m)), m);
    });
  }
};

}  // namespace retort
