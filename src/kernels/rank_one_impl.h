// rank_one.h for two modes of small_gemm.h: M, whose unit is one number, for what corrects itself, and O, for outputs and
// gradients. Layer: kernels. Included by rank_one_*.cc only.
//
// a_t reads S_{t-1}, so it is one more query whose rows are shifted by one token: row t - 1 of the chunk is a_t. In a chunk, with
// p_t = S_{t-1}^T a_t and A[t, s] = sum_d a_t b_s exp(lam_{t-1} - lam_s) for s < t (A_k: the same with k),
//
//   rank one:  (I - A) P = (a o exp(lam_{t-1})) S0 + A_k V         sources of the chunk: b with P, k with V
//   delta:     (I - A) U = (a o exp(lam_{t-1})) S0 + V, U = V + P  source: k with U (b is k)
//
// and then y and the next state are what any recurrence of those sources has. P and U are "found": kept as panels of kPanel columns,
// [panel][c, kPanel], which is how small_gemm.h packs a right operand, so the solve works in place.
#pragma once

#include <tuple>
#include <utility>

#include "kernels/rank_one_isa.h"
#include "kernels/recurrence_impl.h"

namespace retort {

template <class M, class O = M>
struct RankOne {
  using T = typename M::Real;
  using G = Gemm<M>;
  using R = Recurrence<M>;
  using Chunk = RecurrenceChunk<O>;
  using Finding = RecurrenceChunk<M>;  // the same chunk
  using Matrix = Right<T>;
  using OutMatrix = Right<typename O::Unit>;
  static constexpr bool kOneMode = std::is_same_v<M, O>;
  static constexpr int kPanel = M::kPanel;
  static_assert(std::is_same_v<T, typename M::Unit> && std::is_same_v<T, typename O::Real> && kPanel == O::kPanel);

  const KernelRankOne& spec;
  const int kv_head;
  const RankOneTokens<T>& in;
  const KernelRecurrence plain;  // the sizes, as RecurrenceChunk wants them
  const int64_t K, V;

  RankOne(const KernelRankOne& s, int head, const RankOneTokens<T>& tokens)
      : spec(s), kv_head(head), in(tokens), plain(plain_spec(s)), K(s.key_dim), V(s.value_dim) {}
  static KernelRecurrence plain_spec(const KernelRankOne& s) {
    KernelRecurrence r;
    r.decay = s.decay, r.heads = s.heads, r.kv_heads = s.kv_heads, r.key_dim = s.key_dim, r.value_dim = s.value_dim;
    return r;
  }

  // ---- one token ----------------------------------------------------------------------------------------------------------

  static void step(const KernelRankOne& spec, int kv_head, int64_t position, const RankOneTokens<T>& in, T* state, T* out) {
    RankOne(spec, kv_head, in).one_token(position, state, in.q ? out + int64_t(kv_head) * spec.group() * spec.value_dim : nullptr);
  }
  void one_token(int64_t position, T* state, T* y) const {
    if (position < spec.first_position) {
      if (y) std::fill(y, y + spec.group() * V, T(0));
      return;
    }
    ScratchFrame frame;
    const T* q = in.q ? in.q + int64_t(kv_head) * spec.group() * K : nullptr;
    const T* k = in.k + kv_head * K;
    const T* v = in.v + kv_head * V;
    const T* decay = R::decay_factors(frame, plain, kv_head, in.log_decay);
    T* found = frame.alloc<T>(V);
    read(in.erase + kv_head * K, state, found);
    if (spec.delta) {
      for (int64_t j = 0; j < V; ++j) found[j] += v[j];
      R::step_heads(plain, true, q, k, found, decay, state, y);
      return;
    }
    const T* b = in.erase_key + kv_head * K;
    for (int64_t i = 0; i < K; ++i) {
      if (decay) for (int64_t j = 0; j < V; ++j) state[i * V + j] *= decay[i];
      axpy<M>(b[i], found, state + i * V, V);
    }
    R::step_heads(plain, true, q, k, v, nullptr, state, y);
  }
  // y = S^T x
  void read(const T* x, const T* state, T* y) const {
    std::fill(y, y + V, T(0));
    for (int64_t i = 0; i < K; ++i) axpy<M>(x[i], state + i * V, y, V);
  }

  // ---- a chunk ------------------------------------------------------------------------------------------------------------

  // Rows that write into the state, each an outer product with its value.
  struct Source {
    const T* rows = nullptr;         // k, or b; stride G*K
    typename Finding::Keys finding;  // for the erasing rows' scores
    typename Chunk::Keys keys;       // for what follows from them
    T* erased = nullptr;             // A: scores of the erasing rows against these, 0 for s >= t. [c, 64]
    Matrix values{};                 // [c, V]
    const T* value_rows = nullptr;   // the same
    int64_t value_stride = 0;
  };
  struct Piece {
    int64_t first;
    Chunk ch;                        // queries and keys
    const T* erase;                  // a, stride G*K
    const T* reads;                  // a_t exp(lam_{t-1}): what the erasing rows are to the state before the chunk
    int64_t reads_stride;
    int count;                       // of sources; the first one's values are found
    Source source[2];

    Chunk of(const Source& s) const { return ch.writing(s.rows); }
    // The erasing rows against a source: row t - 1 is a_t.
    Chunk erasing(const Source& s) const { return of(s).reading(erase + ch.k_stride, ch.k_stride, ch.c - 1); }
  };

  enum class Pass { kForward, kStates, kGradients };
  Piece piece(ScratchFrame& frame, int64_t first, int64_t count, Pass pass) const {
    Piece p{first, Chunk(frame, plain, kv_head, tokens(), first, count), nullptr, nullptr, 0, spec.delta ? 1 : 2, {}};
    p.erase = in.erase + first * p.ch.k_stride + kv_head * K;
    p.reads = p.erase, p.reads_stride = p.ch.k_stride;
    if (p.ch.D > 0) {
      T* reads = frame.alloc<T>(count * K);
      for (int64_t t = 0; t < count; ++t) std::copy(p.erase + t * p.ch.k_stride, p.erase + t * p.ch.k_stride + K, reads + t * K);
      p.ch.reading(nullptr, 0, count - 1).scale_rows(reads + K, K, p.ch.from_start);
      p.reads = reads, p.reads_stride = K;
    }
    p.source[0].rows = spec.delta ? p.ch.k : in.erase_key + first * p.ch.k_stride + kv_head * K;
    if (!spec.delta) {
      p.source[1].rows = p.ch.k;
      p.source[1].values = M::right_rows(frame, p.ch.v, p.ch.v_stride, count, V);
      p.source[1].value_rows = p.ch.v, p.source[1].value_stride = p.ch.v_stride;
    }
    for (int j = 0; j < p.count; ++j) {
      Source& s = p.source[j];
      if (pass != Pass::kGradients) s.finding = Finding(p.of(s)).keys(frame);
      if (pass == Pass::kGradients) s.keys = p.of(s).keys(frame, true);
      else if constexpr (kOneMode) s.keys = s.finding;
      else if (pass == Pass::kForward) s.keys = p.of(s).keys(frame);
    }
    return p;
  }
  RecurrenceTokens<T> tokens() const {
    RecurrenceTokens<T> t;
    t.q = in.q, t.k = in.k, t.v = in.v, t.log_decay = in.log_decay;
    return t;
  }

  // The rows of a chunk that find() and advance() touch.
  void look_ahead(int64_t first, int64_t rows) const {
    Recurrence<O>::look_ahead(plain, kv_head, this->tokens(), first, rows);
    add_ahead(in.erase, first, rows, K), add_ahead(in.erase_key, first, rows, K);
  }
  void add_ahead(const T* x, int64_t first, int64_t rows, int64_t width) const {
    rows_ahead.add(x, spec.kv_heads, kv_head, first, rows, width);
  }

  // fn(panel, first column, columns)
  template <class Fn>
  void each_panel(T* x, int64_t c, Fn&& fn) const {
    for (int64_t n0 = 0; n0 < V; n0 += kPanel) fn(x + n0 * c, n0, std::min<int64_t>(kPanel, V - n0));
  }
  int64_t panel_numbers(int64_t c) const { return c * round_up(V, kPanel); }
  template <class Unit>
  static Right<Unit> panel_of(Right<Unit> m, int64_t n0) { return {m.p + n0 * m.k, m.k}; }
  // Panels, which are rows too, for O.
  static OutMatrix right_of(ScratchFrame& frame, const T* panels, const T* rows, int64_t stride, int64_t c, int64_t width) {
    if constexpr (kOneMode) return {panels, c};
    else return O::right_rows(frame, rows, stride, c, width);
  }
  // Panels as rows: {rows, stride}.
  std::pair<const T*, int64_t> rows_of(ScratchFrame& frame, const T* panels, int64_t c) const {
    if (V <= kPanel) return {panels, kPanel};
    T* rows = frame.alloc<T>(c * V);
    for (int64_t j = 0; j < V; ++j) {
      for (int64_t t = 0; t < c; ++t) rows[t * V + j] = panels[j / kPanel * kPanel * c + t * kPanel + j % kPanel];
    }
    return {rows, V};
  }

  // x <- (I - A)^-1 x of one panel, A strictly lower triangular [c, 64]: blocks of 16 rows.
  static void solve(int64_t c, const T* a, T* x, int64_t width) {
    for (int64_t i0 = 0; i0 < c; i0 += kBlock) {
      const int64_t rows = std::min(kBlock, c - i0);
      G::run(rows, width, i0, {a + i0 * kChunk, kChunk, 1}, {x, c}, x + i0 * kPanel, kPanel, true);
      for (int64_t t = i0 + 1; t < i0 + rows; ++t) {
        G::run(1, width, t - i0, {a + t * kChunk + i0, kChunk, 1}, {x + i0 * kPanel, c}, x + t * kPanel, kPanel, true);
      }
    }
  }

  // The scores of the erasing rows, and the first source's values.
  void find(Piece& p, Matrix before, T* erased, T* found) const {
    ScratchFrame frame;
    const int64_t c = p.ch.c;
    for (int j = 0; j < p.count; ++j) {
      Source& s = p.source[j];
      s.erased = erased + j * c * kChunk;
      std::fill(s.erased, s.erased + kChunk, T(0));
      Finding(p.erasing(s)).scores(s.finding, 0, s.erased + kChunk);
    }
    const auto reads = M::left_rows(frame, p.reads, p.reads_stride, c, K);
    each_panel(found, c, [&](T* x, int64_t n0, int64_t width) {
      std::fill(x, x + c * kPanel, T(0));
      if (spec.delta) {
        for (int64_t t = 0; t < c; ++t) std::copy(p.ch.v + t * p.ch.v_stride + n0, p.ch.v + t * p.ch.v_stride + n0 + width, x + t * kPanel);
      } else {
        const Source& s = p.source[1];
        G::run(c, M::left_rows(frame, s.erased, kChunk, c, c), panel_of(s.values, n0), x, kPanel, false, Everything{width}, UpTo{c});
      }
      G::run(c, width, K, reads, panel_of(before, n0), x, kPanel, true);
      solve(c, p.source[0].erased, x, width);
    });
  }
  // What find() left, as the first source's values.
  void take_found(ScratchFrame& frame, Piece& p, const T* found) const {
    Source& s = p.source[0];
    s.values = {found, p.ch.c};
    std::tie(s.value_rows, s.value_stride) = rows_of(frame, found, p.ch.c);
  }

  void advance(const Piece& p, T* state) const {
    Recurrence<O>::decay_state(p.ch, state);
    for (int j = 0; j < p.count; ++j) {
      ScratchFrame frame;
      const auto [writes, stride] = p.of(p.source[j]).writes(frame);
      G::run(K, V, p.ch.c, M::left_cols(frame, writes, stride, p.ch.c, K), p.source[j].values, state, V, true);
    }
  }

  // ---- a sequence, forward ------------------------------------------------------------------------------------------------

  static void forward(const KernelRankOne& spec, int kv_head, int64_t tokens, int64_t position, const RankOneTokens<T>& in, T* state,
                      T* out) {
    RankOne(spec, kv_head, in).sequence(tokens, position, state, out);
  }
  void sequence(int64_t tokens, int64_t position, T* state, T* out) const {
    ScratchFrame frame;
    if (!state) {
      state = frame.alloc<T>(spec.state_size());
      std::fill(state, state + spec.state_size(), T(0));
    }
    const int64_t silent = std::clamp<int64_t>(spec.first_position - position, 0, tokens), n = spec.group(), stride = spec.heads * V;
    for (int64_t t = 0; t < silent; ++t) std::fill_n(out + t * stride + kv_head * n * V, n * V, T(0));
    for (int64_t first = silent; first < tokens; first += kChunk) {
      ScratchFrame inner;
      Piece p = piece(inner, first, std::min(kChunk, tokens - first), Pass::kForward);
      const int64_t next = first + kChunk, rows = std::min(kChunk, tokens - next);
      look_ahead(next, rows);
      add_ahead(in.q, next, rows, n * K), add_ahead(out, next, rows, n * V);
      const Matrix before = M::right_rows(inner, state, V, K, V);
      T* found = inner.alloc<T>(panel_numbers(p.ch.c));
      find(p, before, inner.alloc<T>(p.count * p.ch.c * kChunk), found);
      take_found(inner, p, found);
      OutMatrix values[2], state_before;
      for (int j = 0; j < p.count; ++j) {
        const Source& s = p.source[j];
        values[j] = right_of(inner, s.values.p, s.value_rows, s.value_stride, p.ch.c, V);
      }
      state_before = right_of(inner, before.p, state, V, K, V);
      for (int h = 0; h < n; ++h) read_chunk(p, h, state_before, values, out + first * stride + (kv_head * n + h) * V, stride);
      advance(p, state);
    }
  }
  void read_chunk(const Piece& p, int h, OutMatrix before, const OutMatrix* values, T* y, int64_t y_stride) const {
    ScratchFrame frame;
    const int64_t c = p.ch.c;
    const auto [reads, stride] = p.ch.reads(frame, h);
    Gemm<O>::run(c, V, K, O::left_rows(frame, reads, stride, c, K), before, y, y_stride, false);
    T* scores = frame.alloc<T>(c * kChunk);
    for (int j = 0; j < p.count; ++j) {
      p.of(p.source[j]).scores(p.source[j].keys, h, scores);
      Gemm<O>::run(c, O::left_rows(frame, scores, kChunk, c, c), values[j], y, y_stride, true, Everything{V}, UpTo{c});
    }
  }
};

}  // namespace retort
