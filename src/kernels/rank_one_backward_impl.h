// The gradient of rank_one.h for the modes of rank_one_impl.h. Layer: kernels. Included by rank_one_*.cc only.
//
// States, scores of the erasing rows and found values of every chunk are computed again first. Then chunks go backwards: the
// gradient dX of what (I - A) was solved for is (I - A)^-T of the found values' gradient, and from there the erasing rows are one
// more query head with output gradient dX, shifted by a token. Decays as in recurrence_backward_impl.h: with respect to lam_t,
// q_t o dq_t + a_{t+1} o da_{t+1} - (k_t o dk_t + b_t o db_t), and rowsum(S1 o dS1) at the chunk's end; pairs whose exponent is 0
// are left out or, per key, added afterwards.
#pragma once

#include "kernels/rank_one_impl.h"

namespace retort {

template <class M, class O = M>
struct RankOneBackward : RankOne<M, O> {
  using Base = RankOne<M, O>;
  using T = typename M::Real;
  using G = Gemm<O>;
  using L = Lanes<O>;
  using Chunk = RecurrenceChunk<O>;
  using Matrix = Right<typename O::Unit>;
  using typename Base::Pass;
  using typename Base::Piece;
  using typename Base::Source;
  using Base::in, Base::K, Base::kPanel, Base::kv_head, Base::spec, Base::V;

  const T* d_out;
  const RankOneGradients<T>& grad;

  static void run(const KernelRankOne& spec, int kv_head, int64_t tokens, const RankOneTokens<T>& in, const T* d_out,
                  const RankOneGradients<T>& grad) {
    RankOneBackward{{spec, kv_head, in}, d_out, grad}.all(tokens);
  }

  // What the first pass leaves of a chunk.
  struct Kept {
    T *state, *erased, *found;  // before the chunk [K, V]; [sources, c, 64]; panels [c, V]
  };

  void all(int64_t tokens) const {
    const int64_t silent = std::min(spec.first_position, tokens), size = spec.state_size();
    const int64_t chunks = (tokens - silent + kChunk - 1) / kChunk, sources = spec.delta ? 1 : 2;
    silence(silent);
    if (chunks == 0) return;
    ScratchFrame frame;
    T* states = frame.alloc<T>((chunks + 1) * size);
    T* erased = frame.alloc<T>(chunks * sources * kChunk * kChunk);
    T* found = frame.alloc<T>(chunks * this->panel_numbers(kChunk));
    std::fill(states, states + size, T(0));
    const auto kept = [&](int64_t i) {
      return Kept{states + i * size, erased + i * sources * kChunk * kChunk, found + i * this->panel_numbers(kChunk)};
    };
    const auto piece = [&](ScratchFrame& f, int64_t i, Pass pass) {
      const int64_t first = silent + i * kChunk;
      return this->piece(f, first, std::min(kChunk, tokens - first), pass);
    };
    for (int64_t i = 0; i < chunks; ++i) {
      ScratchFrame inner;
      Piece p = piece(inner, i, Pass::kStates);
      const int64_t next = silent + (i + 1) * kChunk;
      this->look_ahead(next, std::min(kChunk, tokens - next));
      const Kept k = kept(i);
      this->find(p, M::right_rows(inner, k.state, V, K, V), k.erased, k.found);
      this->take_found(inner, p, k.found);
      std::copy(k.state, k.state + size, k.state + size);
      this->advance(p, k.state + size);
    }
    T* d_state = frame.alloc<T>(size);
    std::fill(d_state, d_state + size, T(0));
    for (int64_t i = chunks - 1; i >= 0; --i) {
      ScratchFrame inner;
      Piece p = piece(inner, i, Pass::kGradients);
      look_back(silent + i * kChunk);
      const Kept k = kept(i);
      for (int j = 0; j < p.count; ++j) p.source[j].erased = k.erased + j * p.ch.c * kChunk;
      this->take_found(inner, p, k.found);
      backward_chunk(inner, p, k.state, d_state);
    }
  }

  // The rows of the chunk before the one at `first` that backward_chunk() touches.
  void look_back(int64_t first) const {
    const int64_t n = spec.group(), before = first - kChunk, rows = first > spec.first_position ? kChunk : 0;
    this->look_ahead(before, rows);
    const auto add = [&](const T* x, int64_t width) { this->add_ahead(x, before, rows, width); };
    add(in.q, n * K), add(d_out, n * V), add(grad.q, n * K), add(grad.k, K), add(grad.v, V), add(grad.erase, K), add(grad.erase_key, K);
    add(grad.log_decay, spec.decay == KernelDecay::kPerKey ? K : 1);
  }

  // Tokens that neither write nor read anything have no gradient.
  void silence(int64_t end) const {
    const int64_t D = spec.decay == KernelDecay::kPerKey ? K : 1;
    const auto clear = [&](T* x, int64_t width) {  // of each kv head
      for (int64_t t = 0; x && t < end; ++t) std::fill_n(x + (t * spec.kv_heads + kv_head) * width, width, T(0));
    };
    clear(grad.q, spec.group() * K), clear(grad.k, K), clear(grad.v, V), clear(grad.log_decay, D);
    clear(grad.erase, K), clear(grad.erase_key, K);
  }

  // One chunk's gradients on their way.
  struct Work {
    const Piece& p;
    T* d_state;
    Matrix state_transposed;
    Matrix values_transposed[2];
    T* d_rows[2];                // of the sources
    T* d_values[2];              // panels [c, V]
    T* diagonal;                 // per key: gradients of the scores without a decay. [heads + 1, sources, c]
    T* d_lam;                    // scalar: the gradient of lam. [c]
    T* d_erase;
  };

  void backward_chunk(ScratchFrame& frame, const Piece& p, const T* before, T* d_state) const {
    const int64_t c = p.ch.c, D = p.ch.D, n = spec.group(), row = p.first * p.ch.k_stride + kv_head * K;
    Work w{p, d_state, O::right_cols(frame, before, V, K, V), {}, {}, {}, nullptr, nullptr, grad.erase + row};
    if (p.ch.per_key()) w.diagonal = frame.alloc<T>((n + 1) * p.count * c);
    if (p.ch.pair_decay) {
      w.d_lam = frame.alloc<T>(c);
      std::fill(w.d_lam, w.d_lam + c, T(0));
    }
    w.d_rows[0] = spec.delta ? grad.k + row : grad.erase_key + row;
    w.d_rows[1] = grad.k + row;
    for (int j = 0; j < p.count; ++j) {
      w.values_transposed[j] = O::right_cols(frame, p.source[j].value_rows, p.source[j].value_stride, c, V);
      w.d_values[j] = frame.alloc<T>(this->panel_numbers(c));
    }
    T* d_end = D > 0 ? frame.alloc<T>(D) : nullptr;
    through_state(w, before + spec.state_size(), d_end);
    Recurrence<O>::decay_state(p.ch, d_state);
    for (int h = 0; h < n; ++h) backward_head(w, h);
    backward_erase(w);
    T* dv = grad.v + p.first * p.ch.v_stride + kv_head * V;
    this->each_panel(w.d_values[p.count - 1], c, [&](const T* x, int64_t n0, int64_t width) {
      for (int64_t t = 0; t < c; ++t) std::copy_n(x + t * kPanel, width, dv + t * p.ch.v_stride + n0);
    });
    if (p.ch.per_key()) {
      decay_gradient(w, d_end);
      add_diagonals(w);
    } else if (D > 0) {
      Chunk::sum_later(w.d_lam, *d_end, c, grad.log_decay + p.first * spec.kv_heads + kv_head, spec.kv_heads);
    }
  }

  // What the sources wrote for later chunks; the gradient of lam at the chunk's end.
  void through_state(const Work& w, const T* after, T* d_end) const {
    ScratchFrame frame;
    const Chunk& ch = w.p.ch;
    const int64_t c = ch.c;
    const Matrix d_state = O::right_rows(frame, w.d_state, V, K, V), transposed = O::right_cols(frame, w.d_state, V, K, V);
    for (int j = 0; j < w.p.count; ++j) {
      const Source& s = w.p.source[j];
      const auto [writes, stride] = w.p.of(s).writes(frame);
      G::run(c, K, V, O::left_rows(frame, s.value_rows, s.value_stride, c, V), transposed, w.d_rows[j], ch.k_stride, false);
      if (ch.D > 0) ch.scale_rows(w.d_rows[j], ch.k_stride, ch.to_end);
      if (w.d_lam) ch.add_row_decay(-1, s.rows, ch.k_stride, w.d_rows[j], ch.k_stride, w.d_lam);
      const auto left = O::left_rows(frame, writes, stride, c, K);
      this->each_panel(w.d_values[j], c, [&](T* x, int64_t n0, int64_t width) {
        if (width < kPanel) std::fill(x, x + c * kPanel, T(0));
        G::run(c, width, K, left, Base::panel_of(d_state, n0), x, kPanel, false);
      });
    }
    if (ch.D == 0) return;
    std::fill(d_end, d_end + ch.D, T(0));
    for (int64_t i = 0; i < K; ++i) d_end[ch.per_key() ? i : 0] += dot<M>(after + i * V, w.d_state + i * V, V);
  }

  void backward_head(const Work& w, int h) const {
    ScratchFrame frame;
    const Chunk& ch = w.p.ch;
    const int64_t c = ch.c;
    const int head = kv_head * spec.group() + h;
    const T* dy = d_out + (w.p.first * spec.heads + head) * V;
    const int64_t dy_stride = int64_t(spec.heads) * V;
    const Matrix dy_right = O::right_rows(frame, dy, dy_stride, c, V);
    // Through the state before the chunk.
    T* dq = grad.q + w.p.first * ch.q_stride + head * K;
    const auto [reads, stride] = ch.reads(frame, h);
    G::run(c, K, V, O::left_rows(frame, dy, dy_stride, c, V), w.state_transposed, dq, ch.q_stride, false);
    if (ch.D > 0) ch.scale_rows(dq, ch.q_stride, ch.from_start);
    if (w.d_lam) ch.add_row_decay(1, ch.head_q(h), ch.q_stride, dq, ch.q_stride, w.d_lam);
    G::run(K, V, c, O::left_cols(frame, reads, stride, c, K), dy_right, w.d_state, V, true);
    // Through the scores.
    T* scores = frame.alloc<T>(c * kChunk);
    for (int j = 0; j < w.p.count; ++j) {
      const Chunk reader = w.p.of(w.p.source[j]).reading(ch.head_q(h), ch.q_stride, c);
      reader.scores(w.p.source[j].keys, 0, scores);
      const auto left = O::left_cols(frame, scores, kChunk, c, c);
      this->each_panel(w.d_values[j], c, [&](T* x, int64_t n0, int64_t width) {
        G::run(c, left, Base::panel_of(dy_right, n0), x, kPanel, true, Everything{width}, From{c});
      });
      through_scores(w, j, h, reader, scores, dy, dy_stride, dq);
    }
  }

  // Scores of a reader's rows against source j, given the gradient of what was read.
  void through_scores(const Work& w, int j, int reader_index, const Chunk& reader, const T* scores, const T* dy, int64_t dy_stride,
                      T* d_reader) const {
    ScratchFrame frame;
    const int64_t rows = reader.c;
    T* dp = frame.alloc<T>(rows * kChunk);
    G::run(rows, O::left_rows(frame, dy, dy_stride, rows, V), w.values_transposed[j], dp, kChunk, false, UpTo{rows}, Everything{V});
    if (w.diagonal) {
      T* diagonal = w.diagonal + (reader_index * w.p.count + j) * w.p.ch.c;
      for (int64_t t = 0; t < rows; ++t) diagonal[t] = std::exchange(dp[t * kChunk + t], T(0));
    }
    if (w.d_lam) {
      reader.add_score_decay(scores, dp, w.d_lam);
      reader.apply_pair_decay(dp);
    }
    reader.clear_above(dp);
    reader.score_gradient(w.p.source[j].keys, 0, dp, d_reader, w.d_rows[j]);
  }

  // x <- (I - A)^-T x of one panel, from the last row.
  static void solve_transposed(int64_t c, const T* a, T* x, int64_t width) {
    for (int64_t i0 = (c - 1) / kBlock * kBlock; i0 >= 0; i0 -= kBlock) {
      const int64_t end = std::min(i0 + kBlock, c);
      Gemm<M>::run(end - i0, width, c - end, {a + end * kChunk + i0, 1, kChunk}, {x + end * kPanel, c}, x + i0 * kPanel, kPanel, true);
      for (int64_t s = end - 2; s >= i0; --s) {
        Gemm<M>::run(1, width, end - 1 - s, {a + (s + 1) * kChunk + s, 1, kChunk}, {x + (s + 1) * kPanel, c}, x + s * kPanel, kPanel, true);
      }
    }
  }

  void backward_erase(const Work& w) const {
    ScratchFrame frame;
    const Chunk& ch = w.p.ch;
    const int64_t c = ch.c;
    T* dx = w.d_values[0];
    this->each_panel(dx, c, [&](T* x, int64_t, int64_t width) { solve_transposed(c, w.p.source[0].erased, x, width); });
    const auto [dx_rows, dx_stride] = this->rows_of(frame, dx, c);
    const Matrix dx_right = Base::right_of(frame, dx, dx_rows, dx_stride, c, V);
    if (w.p.count > 1) {
      const auto erased = O::left_cols(frame, w.p.source[1].erased, kChunk, c, c);
      this->each_panel(w.d_values[1], c, [&](T* x, int64_t n0, int64_t width) {
        G::run(c, erased, Base::panel_of(dx_right, n0), x, kPanel, true, Everything{width}, From{c});
      });
    }
    G::run(c, K, V, O::left_rows(frame, dx_rows, dx_stride, c, V), w.state_transposed, w.d_erase, ch.k_stride, false);
    if (ch.D > 0) ch.reading(nullptr, 0, c - 1).scale_rows(w.d_erase + ch.k_stride, ch.k_stride, ch.from_start);
    if (w.d_lam) {
      ch.reading(nullptr, 0, c - 1).add_row_decay(1, w.p.erase + ch.k_stride, ch.k_stride, w.d_erase + ch.k_stride, ch.k_stride, w.d_lam);
    }
    G::run(K, V, c, O::left_cols(frame, w.p.reads, w.p.reads_stride, c, K), dx_right, w.d_state, V, true);
    for (int j = 0; j < w.p.count; ++j) {
      const Source& s = w.p.source[j];
      through_scores(w, j, spec.group(), w.p.erasing(s), s.erased + kChunk, dx_rows + dx_stride, dx_stride, w.d_erase + ch.k_stride);
    }
  }

  // Per key. fn(row, its gradient, reads or writes, index): every row that has token t's lam in its exponent.
  template <class Fn>
  void each_row_at(const Work& w, int64_t t, Fn&& fn) const {
    const Chunk& ch = w.p.ch;
    for (int h = 0; h < spec.group(); ++h) {
      fn(ch.head_q(h) + t * ch.q_stride, grad.q + (w.p.first + t) * ch.q_stride + (kv_head * spec.group() + h) * K, true, h);
    }
    if (t + 1 < ch.c) fn(w.p.erase + (t + 1) * ch.k_stride, w.d_erase + (t + 1) * ch.k_stride, true, spec.group());
    for (int j = 0; j < w.p.count; ++j) fn(w.p.source[j].rows + t * ch.k_stride, w.d_rows[j] + t * ch.k_stride, false, j);
  }

  void decay_gradient(const Work& w, const T* d_end) const {
    ScratchFrame frame;
    T* later = frame.alloc<T>(K);
    std::copy(d_end, d_end + K, later);
    T* negative = frame.alloc<T>(K);
    for (int64_t t = w.p.ch.c - 1; t >= 0; --t) {
      each_row_at(w, t, [&](const T* row, const T* d_row, bool reads, int) {
        if (!reads) L::scaled(row, T(-1), negative, K);
        L::add_product(reads ? row : negative, d_row, later, K);
      });
      std::copy(later, later + K, grad.log_decay + ((w.p.first + t) * spec.kv_heads + kv_head) * K);
    }
  }

  // The pairs of the same token (of the erasing rows: of neighbours) have no decay between them.
  void add_diagonals(const Work& w) const {
    for (int64_t t = 0; t < w.p.ch.c; ++t) {
      each_row_at(w, t, [&](const T* row, T* d_row, bool reads, int reader) {
        for (int j = 0; reads && j < w.p.count; ++j) {
          const T weight = w.diagonal[(reader * w.p.count + j) * w.p.ch.c + t];
          axpy<M>(weight, w.p.source[j].rows + t * w.p.ch.k_stride, d_row, K);
          axpy<M>(weight, row, w.d_rows[j] + t * w.p.ch.k_stride, K);
        }
      });
    }
  }
};

template <class M, class O = M>
constexpr RankOneKernels<typename M::Real> rank_one_kernels() {
  return {&RankOne<M>::step, &RankOne<M, O>::forward, &RankOneBackward<M, O>::run};
}

}  // namespace retort
