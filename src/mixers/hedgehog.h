// Hedgehog (mixers.md 3.10): linear attention whose feature maps are softmaxes of a learned projection and its negative.
//
//   u = W x + b, d wide;   phi(x) = softmax([2u ; -2u])  (joint)   or   [softmax(u) ; softmax(-u)]  (split)
//   S_t = S_{t-1} + phi(k) v^T;   z_t = z_{t-1} + phi(k);   y = S^T phi(q) / (z . phi(q) + 1e-10);   out = W_o y
//
// q and k are rotated by the teacher's rope first (field `rope`). Queries, keys and values start as the teacher's, W as the identity; keys and
// values stay grouped. Layer: mixers.
#pragma once

#include "mixers/qkv.h"

namespace retort {

struct Hedgehog {
  static constexpr const char* kName = "hedgehog";
  static constexpr const char* kSummary = "Hedgehog: linear attention with softmax feature maps";
  static constexpr bool kRecurrent = true;
  static constexpr bool kNeedsWindow = false;
  struct Config {
    int joint = 1;        // one softmax over u and -u, or one each
    int shared = 0;       // 1: one map for all heads
    int output_norm = 0;  // 1: RMS per head before W_o
    int rope = 1;
    template <class V>
    void visit(V&& v) {
      v("joint", joint, 0, 1);
      v("shared", shared, 0, 1);
      v("output_norm", output_norm, 0, 1);
      v("rope", rope, 0, 1);
    }
  };
  enum Weight : int {
    kOutput = qkv::kO, kQueryFeature = qkv::kCount, kQueryFeatureBias, kKeyFeature, kKeyFeatureBias, kNorm, kWeightCount
  };

  static std::vector<TensorSpec> tensors(const Config& c, const PartShape& s) {
    auto table = qkv::tensors(s);
    const int64_t d = s.head_dim, queries = c.shared ? 1 : s.heads, keys = c.shared ? 1 : s.kv_heads;
    const auto query_rows = c.shared ? HeadAxis::kShared : HeadAxis::kQueryRows, key_rows = c.shared ? HeadAxis::kShared : HeadAxis::kKvRows;
    using B = InitBlock;
    constexpr auto kFeatures = TrainGroup::kFeature;
    table.push_back({"feature_q.weight", {queries, d, d}, Precision::kQuantised, kFeatures, {B::identity_per_head()}, query_rows});
    table.push_back({"feature_q.bias", {queries, d}, Precision::kF32, kFeatures, {B::constant(0)}, query_rows});
    table.push_back({"feature_k.weight", {keys, d, d}, Precision::kQuantised, kFeatures, {B::identity_per_head()}, key_rows});
    table.push_back({"feature_k.bias", {keys, d}, Precision::kF32, kFeatures, {B::constant(0)}, key_rows});
    table.push_back({"norm.weight", shape_if(c.output_norm, {d}), Precision::kF32, kFeatures, {B::head_rms(1)}});
    return table;
  }

  static RecurrenceSpec recurrence(const Config&, const PartShape& s) {
    return {Decay::kNone, s.heads, s.kv_heads, 2 * s.head_dim, s.head_dim, Normaliser::kSum, /*norm_eps=*/1e-10};
  }

  template <class Ops>
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config& c, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& x) {
    const auto p = qkv::project(ops, s, w, x);
    RecurrenceInputs<Ops> in;
    qkv::set_local(in, p);
    in.q = feature(ops, c, qkv::rotated(ops, c.rope, p.q, s.heads), w[kQueryFeature], w[kQueryFeatureBias], s.heads);
    in.k = feature(ops, c, ops.leaving(qkv::rotated(ops, c.rope, p.k, s.kv_heads)), w[kKeyFeature], w[kKeyFeatureBias], s.kv_heads);
    in.v = ops.leaving(p.v);
    return in;
  }

  template <class Ops>
  static typename Ops::Tensor readout(Ops& ops, const Config&, const PartShape& s, Weights<Ops> w,
                                      const RecurrenceInputs<Ops>&, const typename Ops::Tensor& y) {
    return w[kNorm] ? ops.rms_norm_heads(y, w[kNorm], s.heads, s.norm_eps) : y;
  }

 private:
  template <class Ops>
  static typename Ops::Tensor feature(Ops& ops, const Config& c, const typename Ops::Tensor& x, const typename Ops::Weight& map,
                                      const typename Ops::Weight& bias, int heads) {
    const auto u = ops.head_linear(x, map, bias, heads);
    if (c.joint) return ops.softmax_heads(ops.mirror_heads(ops.scale(u, 2), heads), heads);
    return ops.softmax_heads(ops.mirror_heads(u, heads), 2 * heads);
  }
};

}  // namespace retort
