// ReBased (mixers.md 3.9): linear attention with a learned quadratic kernel, no decay.
//
//   u(x) = gamma o LayerNorm(W_f x) + beta, f wide;   kernel(q, k) = (u(q) . u(k))^2 / f = phi(q) . phi(k)
//   S_t = S_{t-1} + phi(k) v^T;   z_t = z_{t-1} + phi(k);   y = S^T phi(q) / (z . phi(q) + 1e-5);   out = W_o y
//
// Queries, keys and values start as the teacher's. Where f is narrower than a head, W_f starts as the two factors of the best
// approximation of rank f to the teacher's W_Q^T W_K; it knows nothing of rope and of q and k norms. Layer: mixers.
#pragma once

#include "mixers/qkv.h"

namespace retort {

struct Rebased {
  static constexpr const char* kName = "rebased";
  static constexpr const char* kSummary = "ReBased: linear attention with a learned quadratic kernel";
  static constexpr bool kRecurrent = true;
  static constexpr bool kNeedsWindow = false;
  struct Config {
    int feature_dim = 16;  // f; the state has f(f+1)/2 rows a head
    int rope = 0;
    template <class V>
    void visit(V&& v) {
      v("feature_dim", feature_dim, 2, 64);
      v("rope", rope, 0, 1);
    }
  };
  enum Weight : int { kOutput = qkv::kO, kQueryFeature = qkv::kCount, kKeyFeature, kGamma, kBeta, kWeightCount };
  static constexpr double kNormEps = 1e-5;

  static std::vector<TensorSpec> tensors(const Config& c, const PartShape& s) {
    auto table = qkv::tensors(s);
    const int64_t f = c.feature_dim, d = s.head_dim;
    const auto maps = [&](int64_t heads) { return shape_if(f != d, {heads, f, d}); };
    using enum TeacherSource;
    using B = InitBlock;
    constexpr auto kFeatures = TrainGroup::kFeature;
    table.push_back({"feature_q.weight", maps(s.heads), Precision::kQuantised, kFeatures, {B::low_rank(kQuery)}, HeadAxis::kQueryRows});
    table.push_back({"feature_k.weight", maps(s.kv_heads), Precision::kQuantised, kFeatures, {B::low_rank(kKey)}, HeadAxis::kKvRows});
    table.push_back({"gamma", {f}, Precision::kF32, kFeatures, {B::constant(1)}});
    table.push_back({"beta", {f}, Precision::kF32, kFeatures, {B::constant(0)}});
    return table;
  }

  static RecurrenceSpec recurrence(const Config& c, const PartShape& s) {
    const int f = c.feature_dim;
    return {Decay::kNone, s.heads, s.kv_heads, f * (f + 1) / 2, s.head_dim, Normaliser::kSum, kNormEps};
  }

  template <class Ops>
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config& c, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& x) {
    const auto p = qkv::project(ops, s, w, x);
    RecurrenceInputs<Ops> in;
    qkv::set_local(in, p);
    in.q = ops.scale(features(ops, c, w, qkv::rotated(ops, c.rope, p.q, s.heads), w[kQueryFeature], s.heads), 1.0 / c.feature_dim);
    in.k = features(ops, c, w, ops.leaving(qkv::rotated(ops, c.rope, p.k, s.kv_heads)), w[kKeyFeature], s.kv_heads);
    in.v = ops.leaving(p.v);
    return in;
  }

  template <class Ops>
  static typename Ops::Tensor readout(Ops&, const Config&, const PartShape&, Weights<Ops>,
                                      const RecurrenceInputs<Ops>&, const typename Ops::Tensor& y) {
    return y;
  }

 private:
  template <class Ops>
  static typename Ops::Tensor features(Ops& ops, const Config& c, Weights<Ops> w, const typename Ops::Tensor& x,
                                       const typename Ops::Weight& map, int heads) {
    const auto narrow = map ? ops.head_linear(x, map, typename Ops::Weight{}, heads) : x;
    const auto normed = qkv::layer_norm_heads(ops, narrow, w[kGamma], heads, kNormEps);
    const auto beta = ops.add_row(ops.same_row(x, std::vector<double>(size_t(c.feature_dim))), w[kBeta]);  // one for all heads
    return ops.square_heads(ops.add(normed, ops.repeat_heads(beta, 1, heads)), heads);
  }
};

}  // namespace retort
