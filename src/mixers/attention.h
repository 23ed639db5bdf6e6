// Softmax attention (mixers.md 3.15): the teacher's mixer, and what a hybrid keeps. "window" is the same with a hard cut: the
// last window.size tokens and the first window.sinks ones.
//
// Layer: mixers.
#pragma once

#include "mixers/qkv.h"

namespace retort {

struct Attention {
  static constexpr const char* kName = "attention";
  static constexpr const char* kSummary = "softmax attention over the whole context (KV cache grows)";
  static constexpr bool kRecurrent = false;
  static constexpr bool kNeedsWindow = false;
  struct Config {
    template <class V>
    void visit(V&&) {}
  };
  enum Weight : int { kOutput = qkv::kO, kWeightCount = qkv::kCount };

  static std::vector<TensorSpec> tensors(const Config&, const PartShape& s) { return qkv::tensors(s); }

  template <class Ops>
  static RecurrenceInputs<Ops> inputs(Ops& ops, const Config&, const PartShape& s, Weights<Ops> w,
                                      const typename Ops::Tensor& x) {
    RecurrenceInputs<Ops> in;
    qkv::set_local(in, qkv::project(ops, s, w, x));
    return in;
  }
};

struct Window : Attention {
  static constexpr const char* kName = "window";
  static constexpr const char* kSummary = "softmax attention over a sliding window and the first few tokens (sinks)";
  static constexpr bool kNeedsWindow = true;
};

}  // namespace retort
