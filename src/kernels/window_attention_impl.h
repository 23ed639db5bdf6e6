// window_attention.h for a mode of small_gemm.h. Layer: kernels. Included by recurrence_*.cc only.
//
// For a block of queries [i0, i0 + c) the keys are laid out as columns: [first key any of them sees, i0 + c), padded to 16,
// then the sinks that lie before that. The band is cut out of every product, so a row costs about `window` columns.
#pragma once

#include "kernels/recurrence_isa.h"
#include "kernels/small_gemm.h"

namespace retort {

template <class M>
struct WindowAttention {
  using T = typename M::Real;
  using U = typename M::Unit;
  using G = Gemm<M>;
  using S = typename M::Simd;
  static constexpr int64_t kQueries = 64;
  static constexpr double kMasked = -1e30;

  const KernelAttention& spec;
  int kv_head;
  int64_t tokens;
  const T *q, *k, *v;  // first row, the kv head's columns (q: its first query head)
  int64_t d = spec.key_dim, V = spec.value_dim;
  int64_t q_stride = spec.heads * d, k_stride = spec.kv_heads * d, v_stride = spec.kv_heads * V, o_stride = spec.heads * V;
  T scale = T(1 / std::sqrt(double(d)));

  WindowAttention(const KernelAttention& s, int g, int64_t n, const T* qs, const T* ks, const T* vs)
      : spec(s), kv_head(g), tokens(n), q(qs + int64_t(g) * s.group() * s.key_dim), k(ks + int64_t(g) * s.key_dim),
        v(vs + int64_t(g) * s.value_dim) {}

  // Keys (or values) as right operands: the band's and the sinks'.
  struct Keys {
    Right<U> band{}, sinks{};
  };

  struct Block {
    int64_t i0, c;         // queries
    int64_t lo, count;     // band: keys lo .. lo + count
    int64_t sinks;         // keys 0 .. sinks before the band
    int64_t padded, width; // columns before the sinks, columns in all
    int64_t low, high;     // row r sees columns r + low .. r + high of the band
    Band columns() const { return {count, low, high}; }
    Band rows() const { return {c, -high, -low}; }  // transposed: which queries see a key
  };

  Block block(int64_t i0) const {
    Block b;
    b.i0 = i0, b.c = std::min(kQueries, tokens - i0);
    b.lo = spec.window > 0 ? std::max<int64_t>(0, i0 - spec.window + 1) : 0;
    b.count = i0 + b.c - b.lo;
    b.sinks = std::min(spec.sinks, b.lo);
    b.padded = round_up(b.count, 16), b.width = b.padded + round_up(b.sinks, 16);
    b.high = i0 - b.lo;
    const bool sinks_inside = b.lo < spec.sinks;
    b.low = spec.window > 0 && !sinks_inside ? i0 - spec.window + 1 - b.lo : -tokens;
    return b;
  }

  bool whole() const { return spec.window == 0; }
  Keys pack_cols(ScratchFrame& f, const Block& b, const T* x, int64_t stride, int64_t width) const {
    return {M::right_cols(f, x + b.lo * stride, stride, b.count, width),
            b.sinks > 0 ? M::right_cols(f, x, stride, b.sinks, width) : Right<U>{}};
  }
  Keys pack_rows(ScratchFrame& f, const Block& b, const T* x, int64_t stride, int64_t width) const {
    return {M::right_rows(f, x + b.lo * stride, stride, b.count, width),
            b.sinks > 0 ? M::right_rows(f, x, stride, b.sinks, width) : Right<U>{}};
  }

  // out[c, width] = x[c, n] . keys^T over the band and the sinks.
  void times_keys(const Block& b, Left<U> x, const Keys& keys, int64_t n, T* out) const {
    G::run(b.c, x, keys.band, out, b.width, false, b.columns(), Everything{n});
    if (b.sinks > 0) G::run(b.c, b.sinks, n, x, keys.sinks, out + b.padded, b.width, false);
  }
  // out[c, n] = weights[c, width] . values
  void weighted(ScratchFrame& f, const Block& b, const T* weights, const Keys& values, int64_t n, T* out, int64_t stride) const {
    G::run(b.c, M::left_rows(f, weights, b.width, b.c, b.padded), values.band, out, stride, false, Everything{n}, b.columns());
    if (b.sinks > 0) {
      G::run(b.c, n, b.sinks, M::left_rows(f, weights + b.padded, b.width, b.c, b.sinks), values.sinks, out, stride, true);
    }
  }
  // out[key, n] += weights[c, width]^T . x[c, n], out being the first row of the sequence.
  void scatter(ScratchFrame& f, const Block& b, const T* weights, Right<U> x, int64_t n, T* out, int64_t stride) const {
    G::run(b.count, M::left_cols(f, weights, b.width, b.c, b.count), x, out + b.lo * stride, stride, true, Everything{n}, b.rows());
    if (b.sinks > 0) {
      G::run(b.sinks, n, b.c, M::left_cols(f, weights + b.padded, b.width, b.c, b.sinks), x, out, stride, true);
    }
  }

  // Calls fn(first, last) for the two stretches of a row's columns that may be visible, in multiples of 16.
  template <class Fn>
  static void stretches(const Block& b, int64_t r, Fn&& fn) {
    fn(std::clamp<int64_t>(r + b.low, 0, b.count) / 16 * 16, round_up(std::clamp<int64_t>(r + b.high + 1, 0, b.count), 16));
    if (b.sinks > 0) fn(b.padded, b.width);
  }

  // Puts kMasked where a row must not look.
  void mask(const Block& b, int64_t r, T* row) const {
    const int64_t t = b.i0 + r;
    const int64_t first = spec.window > 0 ? std::max<int64_t>(0, t - spec.window + 1) : 0;
    const int64_t begin = std::clamp<int64_t>(r + b.low, 0, b.count) / 16 * 16;
    for (int64_t j = std::max(begin, spec.sinks - b.lo); j < first - b.lo; ++j) row[j] = T(kMasked);
    for (int64_t j = t + 1 - b.lo; j < b.padded; ++j) row[j] = T(kMasked);
    for (int64_t j = b.padded + b.sinks; j < b.width; ++j) row[j] = T(kMasked);
  }
  static void clear_outside(const Block& b, int64_t r, T* row) {
    int64_t done = 0;
    stretches(b, r, [&](int64_t first, int64_t last) {
      std::fill(row + done, row + first, T(0));
      done = last;
    });
    std::fill(row + done, row + b.width, T(0));
  }

  // e^(scale z - m)
  typename M::F weight(const T* z, T m) const {
    return Lanes<M>::exp(S::fma(S::set1(scale), S::load(z), S::set1(-m)));
  }

  // Scores to unnormalised weights e^(z - m); returns m and the sum.
  std::pair<T, T> weigh(const Block& b, int64_t r, T* row) const {
    mask(b, r, row);
    auto most = S::set1(T(kMasked));
    stretches(b, r, [&](int64_t first, int64_t last) {
      for (int64_t j = first; j < last; j += M::kLanes) most = S::max(most, S::load(row + j));
    });
    const T m = S::max_of(most) * scale;
    T sum = 0;
    stretches(b, r, [&](int64_t first, int64_t last) {
      for (int64_t j = first; j < last; j += M::kLanes) S::store(row + j, weight(row + j, m));
      sum += sum_of<M>(row + first, last - first);
    });
    clear_outside(b, r, row);
    return {m, sum};
  }

  static void forward(const KernelAttention& spec, int kv_head, int64_t tokens, const T* q, const T* k, const T* v, T* out,
                      T* log_norm) {
    WindowAttention(spec, kv_head, tokens, q, k, v).forward_all(out, log_norm);
  }

  void forward_all(T* out, T* log_norm) const {
    ScratchFrame outer;
    Keys all_keys, all_values;
    if (whole()) {
      all_keys.band = M::right_cols(outer, k, k_stride, tokens, d);
      all_values.band = M::right_rows(outer, v, v_stride, tokens, V);
    }
    for (int64_t i0 = 0; i0 < tokens; i0 += kQueries) {
      ScratchFrame frame;
      const Block b = block(i0);
      const Keys keys = whole() ? all_keys : pack_cols(frame, b, k, k_stride, d);
      const Keys values = whole() ? all_values : pack_rows(frame, b, v, v_stride, V);
      T* weights = frame.alloc<T>(b.c * b.width);
      T* sums = frame.alloc<T>(b.c);
      for (int h = 0; h < spec.group(); ++h) {
        ScratchFrame inner;
        const int head = kv_head * spec.group() + h;
        times_keys(b, M::left_rows(inner, q + i0 * q_stride + h * d, q_stride, b.c, d), keys, d, weights);
        for (int64_t r = 0; r < b.c; ++r) {
          const auto [m, sum] = weigh(b, r, weights + r * b.width);
          sums[r] = sum;
          if (log_norm) log_norm[(i0 + r) * spec.heads + head] = m + std::log(sum);
        }
        T* y = out + i0 * o_stride + head * V;
        weighted(inner, b, weights, values, V, y, o_stride);
        for (int64_t r = 0; r < b.c; ++r) {
          const T inverse = 1 / sums[r];
          for (int64_t j = 0; j < V; ++j) y[r * o_stride + j] *= inverse;
        }
      }
    }
  }

  static void backward(const KernelAttention& spec, int kv_head, int64_t tokens, const T* q, const T* k, const T* v, const T* out,
                       const T* log_norm, const T* d_out, const T* d_log_norm, T* dq, T* dk, T* dv) {
    const WindowAttention a(spec, kv_head, tokens, q, k, v);
    const Gradient g{out, log_norm, d_out, d_log_norm, dq, dk + kv_head * a.d, dv + kv_head * a.V};
    a.backward_all(g);
  }

  struct Gradient {
    const T *out, *log_norm, *d_out, *d_log_norm;
    T *dq, *dk, *dv;  // dk, dv: the kv head's columns
  };
  struct Packed {
    Keys keys, key_rows, values;
  };

  void backward_all(const Gradient& g) const {
    for (int64_t t = 0; t < tokens; ++t) {
      std::fill(g.dk + t * k_stride, g.dk + t * k_stride + d, T(0));
      std::fill(g.dv + t * v_stride, g.dv + t * v_stride + V, T(0));
    }
    ScratchFrame outer;
    Packed all;
    if (whole()) {
      all.keys.band = M::right_cols(outer, k, k_stride, tokens, d);
      all.key_rows.band = M::right_rows(outer, k, k_stride, tokens, d);
      all.values.band = M::right_cols(outer, v, v_stride, tokens, V);
    }
    for (int64_t i0 = 0; i0 < tokens; i0 += kQueries) {
      ScratchFrame frame;
      const Block b = block(i0);
      const Packed packed = whole() ? all
                                    : Packed{pack_cols(frame, b, k, k_stride, d), pack_rows(frame, b, k, k_stride, d),
                                             pack_cols(frame, b, v, v_stride, V)};
      for (int h = 0; h < spec.group(); ++h) backward_head(b, packed, h, g);
    }
  }

  void backward_head(const Block& b, const Packed& packed, int h, const Gradient& g) const {
    ScratchFrame frame;
    const int head = kv_head * spec.group() + h;
    const T* queries = q + b.i0 * q_stride + h * d;
    const T* d_out = g.d_out + b.i0 * o_stride + head * V;
    T* p = frame.alloc<T>(b.c * b.width);
    T* ds = frame.alloc<T>(b.c * b.width);
    times_keys(b, M::left_rows(frame, queries, q_stride, b.c, d), packed.keys, d, p);
    times_keys(b, M::left_rows(frame, d_out, o_stride, b.c, V), packed.values, V, ds);
    for (int64_t r = 0; r < b.c; ++r) {
      const int64_t i = (b.i0 + r) * spec.heads + head;
      const T delta = dot<M>(g.d_out + i * V, g.out + i * V, V) - (g.d_log_norm ? g.d_log_norm[i] : T(0));
      const T log_norm = g.log_norm[i];
      T* row = p + r * b.width;
      T* ds_row = ds + r * b.width;
      mask(b, r, row);
      mask(b, r, ds_row);  // never written there: any number will do
      stretches(b, r, [&](int64_t first, int64_t last) {
        for (int64_t j = first; j < last; j += M::kLanes) {
          const auto p_j = weight(row + j, log_norm);
          S::store(row + j, p_j);
          S::store(ds_row + j, S::mul(S::mul(p_j, S::set1(scale)), S::sub(S::load(ds_row + j), S::set1(delta))));
        }
      });
      clear_outside(b, r, row);
      clear_outside(b, r, ds_row);
    }
    weighted(frame, b, ds, packed.key_rows, d, g.dq + b.i0 * q_stride + head * d, q_stride);
    scatter(frame, b, ds, M::right_rows(frame, queries, q_stride, b.c, d), d, g.dk, k_stride);
    scatter(frame, b, p, M::right_rows(frame, d_out, o_stride, b.c, V), V, g.dv, v_stride);
  }
};

template <class M>
constexpr WindowKernels<typename M::Real> window_kernels() {
  return {&WindowAttention<M>::forward, &WindowAttention<M>::backward};
}

}  // namespace retort
