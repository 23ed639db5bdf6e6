// DeltaNet (mixers.md 3.8): a token first reads what the state holds for its key, and writes the difference to its value.
//
//   beta = sigmoid(W_b x) (twice that with allow_neg_eigval);   S_t = S_{t-1} + beta k (v - S_{t-1}^T k)^T;   y = S^T q
//   out = W_o( RMS_head(y) [o SiLU(W_g x)] )                    q, k, v: mixers/delta.h
//
// Queries, keys and values start as the teacher's; keys, values and beta stay grouped. Layer: mixers.
#pragma once

#include "mixers/delta.h"

namespace retort {

struct DeltaNet {
  static constexpr const char* kName = "deltanet";
  static constexpr const char* kSummary = "delta rule: a token corrects what the state holds for its key";
  static constexpr bool kRecurrent = true;
  static constexpr bool kNeedsWindow = false;
  struct Config {
    int conv_size = 4;         // 0: no convolution and no SiLU
    int allow_neg_eigval = 0;  // beta up to 2: the state may change sign along a key
    int output_gate = 0;
    int rope = 0;
    template <class V>
    void visit(V&& v) {
      v("conv_size", conv_size, 0, 64);
      v("allow_neg_eigval", allow_neg_eigval, 0, 1);
      v("output_gate", output_gate, 0, 1);
      v("rope", rope, 0, 1);
    }
  };
  enum Weight : int { kOutput = qkv::kO, kNorm = delta::kCount, kGate, kWeightCount };

  static std::vector<TensorSpec> tensors(const Config& c, const PartShape& s) {
    auto table = delta::tensors(c.conv_size, s);
    table.push_back(qkv::head_norm("o_norm.weight", s));
    table.push_back(qkv::silu_gate(s));
    if (!c.output_gate) table.back().shape.clear();
    return table;
  }

  static RecurrenceSpec recurrence(const Config&, const PartShape& s) {
    return delta::recurrence(Decay::kNone, s);
  }

  template <class Ops>
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config& c, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& x) {
    auto in = delta::inputs(ops, c.rope, s, w, x);
    const auto beta = delta::beta(ops, c.allow_neg_eigval, w, x);
    in.erase = ops.neg(in.k);
    in.k = ops.mul_heads(in.k, beta, s.kv_heads);
    if (w[kGate]) in.gate = ops.linear(x, w[kGate]);
    return in;
  }

  template <class Ops>
  static typename Ops::Tensor readout(Ops& ops, const Config&, const PartShape& s, Weights<Ops> w,
                                      const RecurrenceInputs<Ops>& in, const typename Ops::Tensor& y) {
    return w[kGate] ? qkv::gated_norm(ops, s, y, w[kNorm], in.gate) : ops.rms_norm_heads(y, w[kNorm], s.heads, s.norm_eps);
  }
};

}  // namespace retort
