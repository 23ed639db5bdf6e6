// selective_scan.h for a mode of small_gemm.h. Layer: kernels. Included by selective_scan_*.cc only.
//
// The state is cut into tiles of 8 keys by one vector of channels that stay in registers while a chunk's tokens pass. Backward
// keeps a tile's decays and decayed states of one chunk, 32 KB, and goes through them from the last token to the first:
//   dS_t = q_t dy_t^T + a_{t+1} o dS_{t+1};   dl_t = dS_t o (a_t o S_{t-1});   dk_t = dS_t v_t;   dv_t = dS_t^T k_t;   dq_t = S_t dy_t
#pragma once

#include "kernels/selective_scan.h"
#include "kernels/small_gemm.h"

namespace retort {

template <class M>
struct SelectiveScan {
  using T = typename M::Real;
  using F = typename M::F;
  using S = typename M::Simd;
  using L = Lanes<M>;
  static constexpr int kKeys = 8;
  static constexpr int64_t kTokens = 32;

  // One kv head's columns of one sequence.
  struct Head {
    const KernelScan& spec;
    const T *q, *k, *v, *step, *rate;
    int64_t K, V, q_stride, k_stride, v_stride, out_stride, out_column;

    Head(const KernelScan& s, int kv_head, const ScanTokens<T>& in, const T* rates)
        : spec(s), q(in.q ? in.q + int64_t(kv_head) * s.group() * s.key_dim : nullptr), k(in.k + int64_t(kv_head) * s.key_dim),
          v(in.v + int64_t(kv_head) * s.value_dim), step(in.step + int64_t(kv_head) * s.value_dim),
          rate(rates + int64_t(kv_head) * s.state_size()), K(s.key_dim), V(s.value_dim), q_stride(int64_t(s.heads) * K),
          k_stride(int64_t(s.kv_heads) * K), v_stride(int64_t(s.kv_heads) * V), out_stride(int64_t(s.heads) * V),
          out_column(int64_t(kv_head) * s.group() * V) {}
  };

  struct Tile {
    int64_t key, channel;  // the first of each
    int lanes;
    bool first_keys() const { return key == 0; }
    bool first_channels() const { return channel == 0; }
  };

  // fn<keys>(tile) over the whole state, tiles of the same channels one after another.
  template <class Fn>
  static void each_tile(const Head& head, Fn&& fn) {
    for (int64_t c = 0; c < head.V; c += M::kLanes) {
      const int lanes = int(std::min<int64_t>(M::kLanes, head.V - c));
      int64_t i = 0;
      for (; i + kKeys <= head.K; i += kKeys) fn.template operator()<kKeys>(Tile{i, c, lanes});
      for (; i < head.K; ++i) fn.template operator()<1>(Tile{i, c, lanes});
    }
  }

  static F decay(F rate, F step) { return L::exp(S::mul(rate, step)); }

  // ---- forward ------------------------------------------------------------------------------------------------------------

  // Moves a tile's state over tokens [begin, end). With `out`: adds what the tile's keys give to y.
  template <int NK>
  static void forward_tile(const Head& head, Tile tile, int64_t begin, int64_t end, T* state, T* out) {
    F s[NK], rate[NK];
    const int64_t cells = tile.key * head.V + tile.channel;
#pragma GCC unroll 8
    for (int i = 0; i < NK; ++i) {
      s[i] = L::load(state + cells + i * head.V, tile.lanes);
      rate[i] = L::load(head.rate + cells + i * head.V, tile.lanes);
    }
    for (int64_t t = begin; t < end; ++t) {
      const F step = L::load(head.step + t * head.v_stride + tile.channel, tile.lanes);
      const F v = L::load(head.v + t * head.v_stride + tile.channel, tile.lanes);
      const T* k = head.k + t * head.k_stride + tile.key;
#pragma GCC unroll 8
      for (int i = 0; i < NK; ++i) s[i] = S::fma(S::set1(k[i]), v, S::mul(decay(rate[i], step), s[i]));
      if (!out) continue;
      for (int h = 0; h < head.spec.group(); ++h) {
        const T* q = head.q + t * head.q_stride + h * head.K + tile.key;
        T* y = out + t * head.out_stride + head.out_column + h * head.V + tile.channel;
        F sum = tile.first_keys() ? S::zero() : L::load(y, tile.lanes);
#pragma GCC unroll 8
        for (int i = 0; i < NK; ++i) sum = S::fma(S::set1(q[i]), s[i], sum);
        L::store(y, sum, tile.lanes);
      }
    }
#pragma GCC unroll 8
    for (int i = 0; i < NK; ++i) L::store(state + cells + i * head.V, s[i], tile.lanes);
  }

  static void forward_chunk(const Head& head, int64_t begin, int64_t end, T* state, T* out) {
    each_tile(head, [&]<int NK>(Tile tile) { forward_tile<NK>(head, tile, begin, end, state, out); });
  }

  static void forward(const KernelScan& spec, int kv_head, int64_t tokens, int64_t position, const ScanTokens<T>& in,
                      const T* rate, T* state, T* out) {
    ScratchFrame frame;
    const Head head(spec, kv_head, in, rate);
    if (!state) {
      state = frame.alloc<T>(spec.state_size());
      std::fill(state, state + spec.state_size(), T(0));
    }
    const int64_t silent = std::clamp<int64_t>(spec.first_position - position, 0, tokens);
    for (int64_t t = 0; out && t < silent; ++t) clear(out + t * head.out_stride + head.out_column, spec.group() * head.V);
    for (int64_t t = silent; t < tokens; t += kTokens) forward_chunk(head, t, std::min(t + kTokens, tokens), state, out);
  }

  static void clear(T* p, int64_t n) { std::fill(p, p + n, T(0)); }

  // ---- backward -----------------------------------------------------------------------------------------------------------

  // A kv head's columns of the gradients.
  struct HeadGradients {
    const T* out;
    T *q, *k, *v, *step, *rate;
  };

  // sums[j] = sum of the lanes of a[j]
  static void sum_lanes(const F (&a)[16], T* sums) {
    if constexpr (M::kLanes == 16) {
      S::store(sums, S::sums(a));
    } else {
      for (int j = 0; j < 16; ++j) sums[j] = S::sum(a[j]);
    }
  }

  // Sums over channels, eight keys at a time, on their way to dq and dk; they leave in pairs of eight.
  struct KeySums {
    F parts[16];
    T* to[2];
    int keys, pending = 0;
    bool first;
    KeySums(int n, bool first_channels) : keys(n), first(first_channels) {
      for (F& p : parts) p = S::zero();
    }
    template <int NK>
    void add(const F (&x)[NK], T* target) {
#pragma GCC unroll 8
      for (int i = 0; i < NK; ++i) parts[pending * kKeys + i] = x[i];
      to[pending++] = target;
      if (pending == 2) flush();
    }
    void flush() {
      T sums[16];
      sum_lanes(parts, sums);
      for (int p = 0; p < pending; ++p) {
        for (int i = 0; i < keys; ++i) to[p][i] = (first ? T(0) : to[p][i]) + sums[p * kKeys + i];
      }
      pending = 0;
    }
  };

  // A tile's passage through a chunk: a_t and a_t o S_{t-1}. [kTokens, kKeys, lanes]
  struct Kept {
    T *decays, *decayed;
    explicit Kept(ScratchFrame& frame)
        : decays(frame.alloc<T>(kTokens * kKeys * M::kLanes)), decayed(frame.alloc<T>(kTokens * kKeys * M::kLanes)) {}
    static int64_t at(int64_t t, int i) { return (t * kKeys + i) * M::kLanes; }
  };

  template <int NK>
  static void keep_tile(const Head& head, Tile tile, int64_t begin, int64_t end, const T* state, const Kept& kept) {
    F s[NK], rate[NK];
    const int64_t cells = tile.key * head.V + tile.channel;
#pragma GCC unroll 8
    for (int i = 0; i < NK; ++i) {
      s[i] = L::load(state + cells + i * head.V, tile.lanes);
      rate[i] = L::load(head.rate + cells + i * head.V, tile.lanes);
    }
    for (int64_t t = begin; t < end; ++t) {
      const F step = L::load(head.step + t * head.v_stride + tile.channel, tile.lanes);
      const F v = L::load(head.v + t * head.v_stride + tile.channel, tile.lanes);
      const T* k = head.k + t * head.k_stride + tile.key;
#pragma GCC unroll 8
      for (int i = 0; i < NK; ++i) {
        const F a = decay(rate[i], step), x = S::mul(a, s[i]);
        S::store(kept.decays + Kept::at(t - begin, i), a);
        S::store(kept.decayed + Kept::at(t - begin, i), x);
        s[i] = S::fma(S::set1(k[i]), v, x);
      }
    }
  }

  // d_state: the gradient of the state after the chunk; leaves that of the state before it.
  template <int NK>
  static void backward_tile(const Head& head, Tile tile, int64_t begin, int64_t end, const Kept& kept, T* d_state,
                            const HeadGradients& to) {
    F ds[NK], rate[NK], d_rate[NK];
    const int64_t cells = tile.key * head.V + tile.channel;
#pragma GCC unroll 8
    for (int i = 0; i < NK; ++i) {
      ds[i] = L::load(d_state + cells + i * head.V, tile.lanes);
      rate[i] = L::load(head.rate + cells + i * head.V, tile.lanes);
      d_rate[i] = L::load(to.rate + cells + i * head.V, tile.lanes);
    }
    for (int64_t t = end - 1; t >= begin; --t) {
      const int64_t row = t * head.v_stride + tile.channel;
      const F step = L::load(head.step + row, tile.lanes), v = L::load(head.v + row, tile.lanes);
      const T* k = head.k + t * head.k_stride + tile.key;
      KeySums sums(NK, tile.first_channels());
      for (int h = 0; h < head.spec.group(); ++h) {
        const F dy = L::load(to.out + t * head.out_stride + h * head.V + tile.channel, tile.lanes);
        const int64_t column = t * head.q_stride + h * head.K + tile.key;
        F dq[NK];
#pragma GCC unroll 8
        for (int i = 0; i < NK; ++i) {
          const F s = S::fma(S::set1(k[i]), v, S::load(kept.decayed + Kept::at(t - begin, i)));
          dq[i] = S::mul(s, dy);
          ds[i] = S::fma(S::set1(head.q[column + i]), dy, ds[i]);
        }
        sums.template add<NK>(dq, to.q + column);
      }
      F dk[NK], dv = tile.first_keys() ? S::zero() : L::load(to.v + row, tile.lanes);
      F d_step = tile.first_keys() ? S::zero() : L::load(to.step + row, tile.lanes);
#pragma GCC unroll 8
      for (int i = 0; i < NK; ++i) {
        dk[i] = S::mul(ds[i], v);
        dv = S::fma(S::set1(k[i]), ds[i], dv);
        const F dl = S::mul(ds[i], S::load(kept.decayed + Kept::at(t - begin, i)));
        d_step = S::fma(rate[i], dl, d_step);
        d_rate[i] = S::fma(step, dl, d_rate[i]);
        ds[i] = S::mul(ds[i], S::load(kept.decays + Kept::at(t - begin, i)));
      }
      sums.template add<NK>(dk, to.k + t * head.k_stride + tile.key);
      if (sums.pending > 0) sums.flush();
      L::store(to.v + row, dv, tile.lanes);
      L::store(to.step + row, d_step, tile.lanes);
    }
#pragma GCC unroll 8
    for (int i = 0; i < NK; ++i) {
      L::store(d_state + cells + i * head.V, ds[i], tile.lanes);
      L::store(to.rate + cells + i * head.V, d_rate[i], tile.lanes);
    }
  }

  static void backward(const KernelScan& spec, int kv_head, int64_t tokens, const ScanTokens<T>& in, const T* rate, const T* d_out,
                       const ScanGradients<T>& grad) {
    const Head head(spec, kv_head, in, rate);
    const HeadGradients to = {d_out + head.out_column, grad.q + (head.q - in.q), grad.k + (head.k - in.k), grad.v + (head.v - in.v),
                              grad.step + (head.step - in.step), grad.rate + (head.rate - rate)};
    const int64_t silent = std::min(spec.first_position, tokens), size = spec.state_size();
    for (int64_t t = 0; t < silent; ++t) {  // tokens that neither write nor read anything
      clear(to.q + t * head.q_stride, spec.group() * head.K);
      clear(to.k + t * head.k_stride, head.K);
      clear(to.v + t * head.v_stride, head.V);
      clear(to.step + t * head.v_stride, head.V);
    }
    const int64_t chunks = (tokens - silent + kTokens - 1) / kTokens;
    if (chunks == 0) return;
    ScratchFrame frame;
    T* states = frame.alloc<T>(chunks * size);  // before each chunk
    clear(states, size);
    for (int64_t i = 0; i + 1 < chunks; ++i) {
      std::copy(states + i * size, states + (i + 1) * size, states + (i + 1) * size);
      forward_chunk(head, silent + i * kTokens, silent + (i + 1) * kTokens, states + (i + 1) * size, nullptr);
    }
    const Kept kept(frame);
    T* d_state = frame.alloc<T>(size);
    clear(d_state, size);
    for (int64_t i = chunks - 1; i >= 0; --i) {
      const int64_t begin = silent + i * kTokens, end = std::min(begin + kTokens, tokens);
      each_tile(head, [&]<int NK>(Tile tile) {
        keep_tile<NK>(head, tile, begin, end, states + i * size, kept);
        backward_tile<NK>(head, tile, begin, end, kept, d_state, to);
      });
    }
  }
};

template <class M>
constexpr ScanKernels<typename M::Real> scan_kernels() {
  return {&SelectiveScan<M>::forward, &SelectiveScan<M>::backward};
}

}  // namespace retort
