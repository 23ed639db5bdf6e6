// What forward and backward share about one chunk of 64 tokens: its decays and its scores.
//
// Layer: kernels. Template over a mode of small_gemm.h. Included by recurrence_impl.h only.
//
// lam is the cumulative sum of log-decays inside the chunk, its own token included. D, the columns of a decay: 0 (none),
// 1 (scalar) or K (per key).
#pragma once

#include "kernels/recurrence.h"
#include "kernels/small_gemm.h"

namespace retort {

constexpr int64_t kChunk = 64;
constexpr int64_t kBlock = 16;  // per-key decays: blocks of a chunk whose scores are computed pair by pair

template <class M>
struct RecurrenceChunk {
  using T = typename M::Real;
  using U = typename M::Unit;
  using L = Lanes<M>;
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

  RecurrenceChunk(ScratchFrame& frame, const KernelRecurrence& s, int kv_head, const RecurrenceTokens<T>& in, int64_t first,
                  int64_t count)
      : spec(s), c(count), K(s.key_dim), V(s.value_dim),
        D(s.decay == KernelDecay::kNone ? 0 : s.decay == KernelDecay::kScalar ? 1 : K),
        q_stride(int64_t(s.heads) * K), k_stride(int64_t(s.kv_heads) * K), v_stride(int64_t(s.kv_heads) * V),
        q(in.q + first * q_stride + int64_t(kv_head) * s.group() * K), k(in.k + first * k_stride + kv_head * K),
        v(in.v + first * v_stride + kv_head * V) {
    if (D > 0) set_decays(frame, in.log_decay + (first * s.kv_heads + kv_head) * D);
  }

  void set_decays(ScratchFrame& frame, const T* l) {
    lam = frame.alloc<T>(c * D), from_start = frame.alloc<T>(c * D), to_end = frame.alloc<T>(c * D), total = frame.alloc<T>(D);
    for (int64_t t = 0; t < c; ++t) {
      for (int64_t d = 0; d < D; ++d) lam[t * D + d] = l[t * spec.kv_heads * D + d] + (t > 0 ? lam[(t - 1) * D + d] : T(0));
    }
    const T* end = lam + (c - 1) * D;
    L::exp_all(lam, from_start, c * D);
    for (int64_t t = 0; t < c; ++t) L::exp_difference(end, lam + t * D, to_end + t * D, D);
    L::exp_all(end, total, D);
    if (spec.decay != KernelDecay::kScalar) return;
    pair_decay = frame.alloc<T>(c * kChunk);
    T* same = frame.alloc<T>(c);
    for (int64_t t = 0; t < c; ++t) {
      std::fill(same, same + t + 1, lam[t]);
      L::exp_difference(same, lam, pair_decay + t * kChunk, t + 1);
    }
  }

  bool per_key() const { return spec.decay == KernelDecay::kPerKey; }
  const T* head_q(int h) const { return q + h * K; }

  // x times a factor per row, or per element: [c, K]
  void scale_rows(T* x, int64_t ld, const T* factor) const {
    for (int64_t t = 0; t < c; ++t) {
      if (per_key()) for (int64_t d = 0; d < K; ++d) x[t * ld + d] *= factor[t * K + d];
      else for (int64_t d = 0; d < K; ++d) x[t * ld + d] *= factor[t];
    }
  }
  T* scaled(ScratchFrame& frame, const T* x, int64_t ld, const T* factor) const {
    T* out = frame.alloc<T>(c * K);
    for (int64_t t = 0; t < c; ++t) std::copy(x + t * ld, x + t * ld + K, out + t * K);
    scale_rows(out, K, factor);
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

  // What scores() needs of the keys, shared by the query heads.
  struct Keys {
    Right<U> transposed{};              // none, scalar
    const T* before[kChunk / kBlock]{}; // per key: k_s exp(lam_ref - lam_s) for s < the block's first row. [s, K]
    Right<U> before_transposed[kChunk / kBlock]{};
  };
  Keys keys(ScratchFrame& frame) const {
    Keys out;
    if (!per_key()) {
      out.transposed = M::right_cols(frame, k, k_stride, c, K);
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
    if (per_key()) {
      scores_per_key(frame, keys, h, p);
    } else {
      Gemm<M>::run(c, M::left_rows(frame, head_q(h), q_stride, c, K), keys.transposed, p, kChunk, false, UpTo{c}, Everything{K});
      if (D == 1) apply_pair_decay(p);
    }
    clear_above(p);
  }
  void apply_pair_decay(T* p) const {
    for (int64_t t = 0; t < c; ++t) {
      for (int64_t s = 0; s <= t; ++s) p[t * kChunk + s] *= pair_decay[t * kChunk + s];
    }
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
        Gemm<M>::run(rows, i0, K, M::left_rows(inner, x, K, rows, K), keys.before_transposed[i0 / kBlock], p + i0 * kChunk, kChunk, false);
      }
      for (int64_t t = i0; t < i0 + rows; ++t) {
        for (int64_t s = i0; s <= t; ++s) {
          L::decayed(k + s * k_stride, lam + t * K, lam + s * K, decayed, K);
          p[t * kChunk + s] = dot<M>(head_q(h) + t * q_stride, decayed, K);
        }
      }
    }
  }
};

}  // namespace retort
