// The gradient of recurrence.h for a mode of small_gemm.h. Layer: kernels. Included by recurrence_*.cc only.
//
// Chunks go backwards; dS is the gradient with respect to the state after the chunk. The states at the chunks' starts are
// computed again first. The gradient with respect to lam is q o dq - k o dk (every exponent is lam_t - lam_s), plus
// rowsum(S1 o dS1) at the chunk's end. The pairs t = s have no decay; they are left out or, per key, added afterwards, so that they
// cannot drown what is left of the others under a strong decay. For a scalar decay the pairs of one chunk are taken from P o dP.
#pragma once

#include <utility>

#include "kernels/recurrence_impl.h"

namespace retort {

template <class M>
struct RecurrenceBackward {
  using T = typename M::Real;
  using U = typename M::Unit;
  using G = Gemm<M>;
  using Chunk = RecurrenceChunk<M>;

  const KernelRecurrence& spec;
  int kv_head;
  const RecurrenceTokens<T>& in;
  const T* out;
  const T* d_out;
  const T* d_log_norm;
  const RecurrenceGradients<T>& grad;

  static void run(const KernelRecurrence& spec, int kv_head, int64_t tokens, const RecurrenceTokens<T>& in, const T* out,
                  const T* d_out, const T* d_log_norm, const RecurrenceGradients<T>& grad) {
    RecurrenceBackward{spec, kv_head, in, out, d_out, d_log_norm, grad}.all(tokens);
  }

  void all(int64_t tokens) const {
    const int64_t silent = std::min(spec.first_position, tokens), size = spec.state_size();
    const int64_t chunks = (tokens - silent + kChunk - 1) / kChunk;
    silence(silent);
    if (chunks == 0) return;
    ScratchFrame frame;
    T* states = frame.alloc<T>((chunks + 1) * size);
    std::fill(states, states + size, T(0));
    const auto chunk = [&](ScratchFrame& f, int64_t i, bool read) {
      const int64_t first = silent + i * kChunk;
      return Chunk(f, spec, kv_head, in, first, std::min(kChunk, tokens - first), read);
    };
    for (int64_t i = 0; i < chunks; ++i) {
      ScratchFrame inner;
      const Chunk ch = chunk(inner, i, false);
      const int64_t next = silent + (i + 1) * kChunk;
      Recurrence<M>::look_ahead(spec, kv_head, in, next, std::min(kChunk, tokens - next));
      std::copy(states + i * size, states + (i + 1) * size, states + (i + 1) * size);
      Recurrence<M>::advance(ch, M::right_rows(inner, ch.v, ch.v_stride, ch.c, ch.V), states + (i + 1) * size);
    }
    T* d_state = frame.alloc<T>(size);
    std::fill(d_state, d_state + size, T(0));
    for (int64_t i = chunks - 1; i >= 0; --i) {
      ScratchFrame inner;
      const Chunk ch = chunk(inner, i, true);
      look_back(silent + i * kChunk);
      backward_chunk(inner, ch, silent + i * kChunk, states + i * size, states + (i + 1) * size, d_state);
    }
  }

  // The rows of the chunk before the one at `first` that backward_chunk() touches.
  void look_back(int64_t first) const {
    const int64_t n = spec.group(), K = spec.key_dim, V = spec.value_dim, rows = first > spec.first_position ? kChunk : 0;
    Recurrence<M>::look_ahead(spec, kv_head, in, first - kChunk, rows);
    const auto add = [&](const T* x, int64_t width) { rows_ahead.add(x, spec.kv_heads, kv_head, first - kChunk, rows, width); };
    add(in.q, n * K), add(d_out, n * V);
    if (spec.normalised()) add(out, n * V);
    add(grad.k, K), add(grad.v, V), add(grad.q, n * K), add(grad.log_decay, spec.decay == KernelDecay::kPerKey ? K : 1);
  }

  // Tokens that neither write nor read anything have no gradient.
  void silence(int64_t end) const {
    const int64_t n = spec.group(), K = spec.key_dim, V = spec.value_dim, kv_heads = spec.kv_heads;
    const int64_t D = spec.decay == KernelDecay::kPerKey ? K : 1;
    for (int64_t t = 0; t < end; ++t) {
      const auto clear = [&](T* p, int64_t per_row, int64_t width) {
        if (p) std::fill(p + t * per_row + kv_head * width, p + t * per_row + (kv_head + 1) * width, T(0));
      };
      clear(grad.q, n * kv_heads * K, n * K);
      clear(grad.k, kv_heads * K, K);
      clear(grad.v, kv_heads * V, V);
      clear(grad.q_log_offset, n * kv_heads, n);
      if (spec.decay != KernelDecay::kNone) clear(grad.log_decay, kv_heads * D, D);
    }
  }

  // One chunk's gradients on their way: where they go, and what heads share.
  struct Work {
    const Chunk& ch;
    int64_t first;
    const T* state;               // before the chunk
    T* d_state;
    typename Chunk::Keys keys;
    Right<U> values_transposed, state_transposed;
    T *dk, *dv;
    T* diagonal;                  // per key: dP[t, t]. [n, c]
    T* d_lam;                     // scalar: the gradient of lam. [c]
  };

  void backward_chunk(ScratchFrame& frame, const Chunk& ch, int64_t first, const T* before, const T* after, T* d_state) const {
    const int64_t c = ch.c, K = ch.K, V = ch.V;
    Work w{ch, first, before, d_state, ch.keys(frame, /*backward=*/true), {}, {}, nullptr, nullptr, nullptr, nullptr};
    w.values_transposed = M::right_cols(frame, ch.v, ch.v_stride, c, V);
    w.state_transposed = M::right_cols(frame, before, V, K, V);
    w.dk = grad.k + first * ch.k_stride + kv_head * K;
    w.dv = grad.v + first * ch.v_stride + kv_head * V;
    if (ch.per_key()) w.diagonal = frame.alloc<T>(spec.group() * c);
    if (ch.pair_decay) {
      w.d_lam = frame.alloc<T>(c);
      std::fill(w.d_lam, w.d_lam + c, T(0));
    }
    T* d_end = ch.D > 0 ? frame.alloc<T>(ch.D) : nullptr;

    through_state(w, after, d_end);
    Recurrence<M>::decay_state(ch, d_state);
    for (int h = 0; h < spec.group(); ++h) backward_head(w, h);
    if (ch.per_key()) {
      decay_gradient(w, d_end);
      add_diagonal(w);
    } else if (ch.D > 0) {
      Chunk::sum_later(w.d_lam, *d_end, c, grad.log_decay + first * spec.kv_heads + kv_head, spec.kv_heads);
    }
  }

  // dk and dv of what the chunk wrote for later chunks; the gradient of lam at the chunk's end.
  void through_state(const Work& w, const T* after, T* d_end) const {
    ScratchFrame frame;
    const Chunk& ch = w.ch;
    const int64_t c = ch.c, K = ch.K, V = ch.V;
    const auto [writes, stride] = ch.writes(frame);
    G::run(c, K, V, M::left_rows(frame, ch.v, ch.v_stride, c, V), M::right_cols(frame, w.d_state, V, K, V), w.dk, ch.k_stride, false);
    const T* dz = w.d_state + K * V;
    if (spec.normalised()) for (int64_t t = 0; t < c; ++t) axpy<M>(1, dz, w.dk + t * ch.k_stride, K);
    if (ch.D > 0) ch.scale_rows(w.dk, ch.k_stride, ch.to_end);
    if (w.d_lam) ch.add_row_decay(-1, ch.k, ch.k_stride, w.dk, ch.k_stride, w.d_lam);
    G::run(c, V, K, M::left_rows(frame, writes, stride, c, K), M::right_rows(frame, w.d_state, V, K, V), w.dv, ch.v_stride, false);
    if (ch.D == 0) return;
    std::fill(d_end, d_end + ch.D, T(0));
    for (int64_t i = 0; i < K; ++i) {
      const T z = spec.normalised() ? after[K * V + i] * dz[i] : T(0);
      d_end[ch.per_key() ? i : 0] += dot<M>(after + i * V, w.d_state + i * V, V) + z;
    }
  }

  // The gradients of the undivided output and of sum = z . q: y = n / d(sum), log_norm = log d. [c, V], [c]
  void normaliser_gradient(const Work& w, int head, const T* sum, T* dn, T* d_sum) const {
    const Chunk& ch = w.ch;
    for (int64_t t = 0; t < ch.c; ++t) {
      const T d = Recurrence<M>::divisor(spec, sum[t]);
      const T slope = spec.normaliser == KernelNormaliser::kSum ? T(1) : std::fabs(sum[t]) <= 1 ? T(0) : std::copysign(T(1), sum[t]);
      const int64_t i = (w.first + t) * spec.heads + head;
      const T* dy = d_out + i * ch.V;
      const T inverse = d > 0 ? 1 / d : T(0);
      const T d_log = d_log_norm && d > 0 ? d_log_norm[i] : T(0);
      for (int64_t j = 0; j < ch.V; ++j) dn[t * ch.V + j] = dy[j] * inverse;
      d_sum[t] = slope * (d_log - dot<M>(dy, out + i * ch.V, ch.V)) * inverse;
      if (grad.q_log_offset) grad.q_log_offset[i] = d_log;
    }
  }

  void backward_head(const Work& w, int h) const {
    ScratchFrame frame;
    const Chunk& ch = w.ch;
    const int64_t c = ch.c, K = ch.K, V = ch.V;
    const int head = kv_head * spec.group() + h;
    const auto [reads, stride] = ch.reads(frame, h);
    T* p = frame.alloc<T>(c * kChunk);
    ch.scores(w.keys, h, p);
    const T* dn = d_out + (w.first * spec.heads + head) * V;
    int64_t dn_stride = spec.heads * V;
    T* d_sum = nullptr;
    if (spec.normalised()) {
      T* sum = frame.alloc<T>(c);
      T* scaled = frame.alloc<T>(c * V);
      d_sum = frame.alloc<T>(c);
      Recurrence<M>::sums(ch, reads, stride, p, w.state + K * V, sum);
      normaliser_gradient(w, head, sum, scaled, d_sum);
      dn = scaled, dn_stride = V;
    }
    const Right<U> dn_right = M::right_rows(frame, dn, dn_stride, c, V);
    const Left<U> dn_left = M::left_rows(frame, dn, dn_stride, c, V);
    G::run(c, M::left_cols(frame, p, kChunk, c, c), dn_right, w.dv, ch.v_stride, true, Everything{V}, From{c});
    // Through the state before the chunk.
    T* dq = grad.q + w.first * ch.q_stride + head * K;
    G::run(c, K, V, dn_left, w.state_transposed, dq, ch.q_stride, false);
    if (d_sum) for (int64_t t = 0; t < c; ++t) axpy<M>(d_sum[t], w.state + K * V, dq + t * ch.q_stride, K);
    if (ch.D > 0) ch.scale_rows(dq, ch.q_stride, ch.from_start);
    if (w.d_lam) ch.add_row_decay(1, ch.head_q(h), ch.q_stride, dq, ch.q_stride, w.d_lam);
    G::run(K, V, c, M::left_cols(frame, reads, stride, c, K), dn_right, w.d_state, V, true);
    if (d_sum) for (int64_t t = 0; t < c; ++t) axpy<M>(d_sum[t], reads + t * stride, w.d_state + K * V, K);
    // Through the scores.
    T* dp = frame.alloc<T>(c * kChunk);
    G::run(c, dn_left, w.values_transposed, dp, kChunk, false, UpTo{c}, Everything{V});
    for (int64_t t = 0; d_sum && t < c; ++t) {
      for (int64_t s = 0; s <= t; ++s) dp[t * kChunk + s] += d_sum[t];
    }
    if (w.d_lam) {
      ch.add_score_decay(p, dp, w.d_lam);
      ch.apply_pair_decay(dp);
    }
    for (int64_t t = 0; w.diagonal && t < c; ++t) w.diagonal[h * c + t] = std::exchange(dp[t * kChunk + t], T(0));
    ch.clear_above(dp);
    ch.score_gradient(w.keys, h, dp, dq, w.dk);
  }

  // Per key.
  void decay_gradient(const Work& w, const T* d_end) const {
    ScratchFrame frame;
    const Chunk& ch = w.ch;
    const int64_t K = ch.K, n = spec.group();
    T* later = frame.alloc<T>(K);
    std::copy(d_end, d_end + K, later);
    for (int64_t t = ch.c - 1; t >= 0; --t) {
      const T* dk = w.dk + t * ch.k_stride;
      const T* k = ch.k + t * ch.k_stride;
      for (int64_t h = 0; h < n; ++h) {
        const T* q = ch.head_q(int(h)) + t * ch.q_stride;
        const T* dq = grad.q + (w.first + t) * ch.q_stride + (kv_head * n + h) * K;
        for (int64_t i = 0; i < K; ++i) later[i] += q[i] * dq[i];
      }
      for (int64_t i = 0; i < K; ++i) later[i] -= k[i] * dk[i];
      std::copy(later, later + K, grad.log_decay + ((w.first + t) * spec.kv_heads + kv_head) * K);
    }
  }

  // Per key.
  void add_diagonal(const Work& w) const {
    const Chunk& ch = w.ch;
    for (int64_t h = 0; h < spec.group(); ++h) {
      for (int64_t t = 0; t < ch.c; ++t) {
        const T weight = w.diagonal[h * ch.c + t];
        T* dq = grad.q + (w.first + t) * ch.q_stride + (kv_head * spec.group() + h) * ch.K;
        axpy<M>(weight, ch.k + t * ch.k_stride, dq, ch.K);
        axpy<M>(weight, ch.head_q(int(h)) + t * ch.q_stride, w.dk + t * ch.k_stride, ch.K);
      }
    }
  }
};

template <class M>
constexpr RecurrenceKernels<typename M::Real> recurrence_kernels() {
  return {&Recurrence<M>::step, &Recurrence<M>::forward, &RecurrenceBackward<M>::run};
}

}  // namespace retort
