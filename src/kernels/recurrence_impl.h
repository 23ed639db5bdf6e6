// recurrence.h for a mode of small_gemm.h. Layer: kernels. Included by recurrence_*.cc only.
#pragma once

#include "kernels/recurrence_chunk.h"
#include "kernels/recurrence_isa.h"

namespace retort {

template <class M>
struct Recurrence {
  using T = typename M::Real;
  using U = typename M::Unit;
  using G = Gemm<M>;
  using Chunk = RecurrenceChunk<M>;

  // What the output is divided by, from z . q; 0 where nothing was written.
  static T divisor(const KernelRecurrence& spec, T sum) {
    if (spec.normaliser == KernelNormaliser::kAtLeastOne) return std::max(std::fabs(sum), T(1));
    return sum > kKernelLeastNorm ? sum + T(spec.norm_eps) : T(0);
  }
  static void write_norm(const KernelRecurrence& spec, const RecurrenceTokens<T>& in, int64_t row, int head, T d, T* log_norm) {
    if (!log_norm) return;
    const int64_t i = row * spec.heads + head;
    log_norm[i] = d > 0 ? std::log(d) + (in.q_log_offset ? in.q_log_offset[i] : T(0)) : T(kKernelNothingWritten);
  }

  // ---- one token ----------------------------------------------------------------------------------------------------------

  // Columns v0.. of the state: decayed and written (when `write`), read by NH query heads (0: only written). acc is their sums.
  template <int NH>
  static void step_columns(const KernelRecurrence& spec, bool write, const T* q, const T* k, const T* v, const T* decay,
                           T* state, int lanes, T* out) {
    using S = typename M::Simd;
    const int64_t K = spec.key_dim, V = spec.value_dim;
    const bool whole = lanes == M::kLanes;
    typename S::F acc[NH + 1];  // one more: there are arrays of none only by extension
#pragma GCC unroll 8
    for (int h = 0; h < NH; ++h) acc[h] = S::zero();
    const auto value = whole ? S::load(v) : S::load_part(v, lanes);
    for (int64_t i = 0; i < K; ++i) {
      T* row = state + i * V;
      auto x = whole ? S::load(row) : S::load_part(row, lanes);
      if (write) {
        if (decay) x = S::fma(S::set1(decay[i]), x, S::zero());
        x = S::fma(S::set1(k[i]), value, x);
        if (whole) S::store(row, x);
        else S::store_part(row, x, lanes);
      }
#pragma GCC unroll 8
      for (int h = 0; h < NH; ++h) acc[h] = S::fma(S::set1(q[h * K + i]), x, acc[h]);
    }
#pragma GCC unroll 8
    for (int h = 0; h < NH; ++h) {
      if (whole) S::store(out + h * V, acc[h]);
      else S::store_part(out + h * V, acc[h], lanes);
    }
  }

  // What one token leaves of each key's row; null: everything. [K]
  static const T* decay_factors(ScratchFrame& frame, const KernelRecurrence& spec, int kv_head, const T* log_decay) {
    if (spec.decay == KernelDecay::kNone) return nullptr;
    const int64_t K = spec.key_dim;
    T* decay = frame.alloc<T>(K);
    if (spec.decay == KernelDecay::kPerKey) {
      Lanes<M>::exp_all(log_decay + kv_head * K, decay, K);
    } else {
      Lanes<M>::exp_all(log_decay + kv_head, decay, 1);
      std::fill(decay + 1, decay + K, decay[0]);
    }
    return decay;
  }

  // All columns of the state, all query heads of the kv head. q null: nobody reads.
  static void step_heads(const KernelRecurrence& spec, bool write, const T* q, const T* k, const T* v, const T* decay, T* state, T* y) {
    const int64_t K = spec.key_dim, V = spec.value_dim;
    const int n = spec.group();
    for (int64_t v0 = 0; v0 < V; v0 += M::kLanes) {
      const int lanes = int(std::min<int64_t>(M::kLanes, V - v0));
      if (!q) {
        if (write) step_columns<0>(spec, true, nullptr, k, v + v0, decay, state + v0, lanes, nullptr);
        continue;
      }
      for (int h = 0; h < n;) {
        const bool writes = write && h == 0;
        const auto run = [&]<int NH>() {
          step_columns<NH>(spec, writes, q + h * K, k, v + v0, decay, state + v0, lanes, y + h * V + v0);
          h += NH;
        };
        switch (n - h) {
          case 1: run.template operator()<1>(); break;
          case 2: run.template operator()<2>(); break;
          case 3: run.template operator()<3>(); break;
          default: run.template operator()<4>(); break;
        }
      }
    }
  }

  static void step(const KernelRecurrence& spec, int kv_head, int64_t position, const RecurrenceTokens<T>& in, T* state, T* out,
                   T* log_norm) {
    const int64_t K = spec.key_dim, V = spec.value_dim;
    const int n = spec.group(), first = kv_head * n;
    const T* q = in.q ? in.q + first * K : nullptr;
    const T* k = in.k + kv_head * K;
    const T* v = in.v + kv_head * V;
    T* y = q ? out + first * V : nullptr;
    const bool write = position >= spec.first_position;
    ScratchFrame frame;
    const T* decay = write ? decay_factors(frame, spec, kv_head, in.log_decay) : nullptr;
    step_heads(spec, write, q, k, v, decay, state, y);
    if (!spec.normalised()) return;
    T* z = state + K * V;
    if (write) {
      for (int64_t i = 0; i < K; ++i) z[i] = (decay ? decay[i] * z[i] : z[i]) + k[i];
    }
    if (!q) return;
    for (int h = 0; h < n; ++h) {
      const T d = divisor(spec, dot<M>(q + h * K, z, K));
      for (int64_t i = 0; i < V; ++i) y[h * V + i] = d > 0 ? y[h * V + i] / d : T(0);
      write_norm(spec, in, 0, first + h, d, log_norm);
    }
  }

  // ---- a chunk, forward ---------------------------------------------------------------------------------------------------

  static void advance(const Chunk& ch, Right<U> values, T* state) {
    ScratchFrame frame;
    const auto [writes, stride] = ch.writes(frame);
    T* z = state + ch.K * ch.V;
    decay_state(ch, state);
    G::run(ch.K, ch.V, ch.c, M::left_cols(frame, writes, stride, ch.c, ch.K), values, state, ch.V, true);
    if (!ch.spec.normalised()) return;
    for (int64_t t = 0; t < ch.c; ++t) {
      for (int64_t i = 0; i < ch.K; ++i) z[i] += writes[t * stride + i];
    }
  }
  // The state, or its gradient, times the chunk's whole decay.
  static void decay_state(const Chunk& ch, T* state) {
    if (ch.D == 0) return;
    for (int64_t i = 0; i < ch.K; ++i) {
      const T a = ch.total[ch.per_key() ? i : 0];
      Lanes<M>::scaled(state + i * ch.V, a, state + i * ch.V, ch.V);
      if (ch.spec.normalised()) state[ch.K * ch.V + i] *= a;
    }
  }

  // z . q of each token: through the state before the chunk, and the row's own scores.
  static void sums(const Chunk& ch, const T* reads, int64_t stride, const T* p, const T* z, T* sum) {
    for (int64_t t = 0; t < ch.c; ++t) sum[t] = dot<M>(reads + t * stride, z, ch.K) + sum_of<M>(p + t * kChunk, t + 1);
  }

  static void forward(const KernelRecurrence& spec, int kv_head, int64_t tokens, int64_t position, const RecurrenceTokens<T>& in,
                      T* state, T* out, T* log_norm) {
    ScratchFrame frame;
    if (!state) {
      state = frame.alloc<T>(spec.state_size());
      std::fill(state, state + spec.state_size(), T(0));
    }
    const int64_t silent = std::clamp<int64_t>(spec.first_position - position, 0, tokens);
    silence(spec, kv_head, 0, silent, in, out, log_norm);
    for (int64_t first = silent; first < tokens; first += kChunk) {
      ScratchFrame inner;
      const Chunk ch(inner, spec, kv_head, in, first, std::min(kChunk, tokens - first));
      look_ahead(spec, kv_head, in, out, first + kChunk, std::min(kChunk, tokens - first - kChunk));
      forward_chunk(inner, ch, kv_head, first, in, state, out, log_norm);
    }
  }

  // The rows of a chunk that advance() touches, and those that the rest of forward_chunk() does.
  static void look_ahead(const KernelRecurrence& spec, int kv_head, const RecurrenceTokens<T>& in, int64_t first, int64_t rows) {
    rows_ahead.clear();
    const auto add = [&](const T* x, int64_t width) { rows_ahead.add(x, spec.kv_heads, kv_head, first, rows, width); };
    add(in.log_decay, spec.decay == KernelDecay::kPerKey ? spec.key_dim : 1), add(in.k, spec.key_dim), add(in.v, spec.value_dim);
  }
  static void look_ahead(const KernelRecurrence& spec, int kv_head, const RecurrenceTokens<T>& in, const T* out, int64_t first,
                         int64_t rows) {
    look_ahead(spec, kv_head, in, first, rows);
    rows_ahead.add(in.q, spec.kv_heads, kv_head, first, rows, spec.group() * spec.key_dim);
    rows_ahead.add(out, spec.kv_heads, kv_head, first, rows, spec.group() * spec.value_dim);
  }

  // Tokens before first_position, of a state that is still empty.
  static void silence(const KernelRecurrence& spec, int kv_head, int64_t begin, int64_t end, const RecurrenceTokens<T>& in, T* out,
                      T* log_norm) {
    const int64_t n = spec.group(), V = spec.value_dim;
    for (int64_t t = begin; t < end; ++t) {
      T* y = out + (t * spec.heads + kv_head * n) * V;
      std::fill(y, y + n * V, T(0));
      for (int h = 0; spec.normalised() && h < n; ++h) write_norm(spec, in, t, int(kv_head * n + h), divisor(spec, T(0)), log_norm);
    }
  }

  static void forward_chunk(ScratchFrame& frame, const Chunk& ch, int kv_head, int64_t first, const RecurrenceTokens<T>& in,
                            T* state, T* out, T* log_norm) {
    const KernelRecurrence& spec = ch.spec;
    const int64_t out_stride = int64_t(spec.heads) * ch.V;
    const auto keys = ch.keys(frame);
    const Right<U> values = M::right_rows(frame, ch.v, ch.v_stride, ch.c, ch.V);
    const Right<U> before = M::right_rows(frame, state, ch.V, ch.K, ch.V);
    T* p = frame.alloc<T>(ch.c * kChunk);
    T* sum = frame.alloc<T>(ch.c);
    for (int h = 0; h < spec.group(); ++h) {
      ScratchFrame inner;
      const int head = kv_head * spec.group() + h;
      T* y = out + first * out_stride + head * ch.V;
      ch.scores(keys, h, p);
      const auto [reads, stride] = ch.reads(inner, h);
      G::run(ch.c, ch.V, ch.K, M::left_rows(inner, reads, stride, ch.c, ch.K), before, y, out_stride, false);
      G::run(ch.c, M::left_rows(inner, p, kChunk, ch.c, ch.c), values, y, out_stride, true, Everything{ch.V}, UpTo{ch.c});
      if (!spec.normalised()) continue;
      sums(ch, reads, stride, p, state + ch.K * ch.V, sum);
      for (int64_t t = 0; t < ch.c; ++t) {
        const T d = divisor(spec, sum[t]), inverse = d > 0 ? 1 / d : T(0);
        for (int64_t i = 0; i < ch.V; ++i) y[t * out_stride + i] *= inverse;
        write_norm(spec, in, first + t, head, d, log_norm);
      }
    }
    advance(ch, values, state);
  }
};

}  // namespace retort
