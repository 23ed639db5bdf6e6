// Every operation of the Ops concept (mixers/mixer.h) as a small equation, for the tests that hold runtime and trainer to the
// reference. A new operation is one line here.
#pragma once

#include "conformance/harness.h"
#include "mixers/probe_ops.h"

namespace retort::conformance {

struct Operation {
  std::string name;
  std::vector<int> columns;                     // of its tensors x[0], x[1], ..: slices of one input
  std::vector<std::vector<int64_t>> weights{};  // shapes of w[0], w[1], ..
  bool takes_layer_input = true;                // which is bf16 in training; others only ever get projections

  int input_columns() const {
    int sum = 0;
    for (int c : columns) sum += c;
    return sum;
  }
  std::vector<TensorSpec> table() const {
    std::vector<TensorSpec> specs;
    for (const auto& shape : weights) specs.push_back({cat("w", specs.size()), shape, Precision::kF32, TrainGroup::kProjection, {}});
    return specs;
  }
};

inline PartShape operation_shape() {
  PartShape s;
  s.width = 12, s.heads = 4, s.kv_heads = 2, s.head_dim = 6;
  s.window = {5, 2};
  return s;
}

// An equation on its slices of `x`. [rows, input_columns] -> its output
template <class Equation, class Ops>
typename Ops::Tensor apply(const Equation& equation, Ops& ops, const Operation& op, const typename Ops::Tensor& x, Weights<Ops> w) {
  std::vector<typename Ops::Tensor> slices;
  for (int first = 0; int count : op.columns) {
    slices.push_back(ops.columns(x, first, count));
    first += count;
  }
  return equation(ops, slices.data(), w);
}

// Random weights around 0.
inline std::vector<ReferenceOps::Weight> operation_weights(const Operation& op) {
  std::mt19937 random(5);
  std::normal_distribution<double> normal;
  std::vector<ReferenceOps::Weight> weights;
  for (const TensorSpec& spec : op.table()) {
    ReferenceOps::Weight w{spec.shape, std::vector<double>(size_t(spec.count()))};
    for (double& e : w.values) e = float(0.5 * normal(random));
    weights.push_back(std::move(w));
  }
  return weights;
}

// The recurrence of any decay and normaliser, on q, k, v and a decay out of `x`: [4 * 3], [2 * 3], [2 * 5], [2 * 3].
inline auto recurrence_equation(Decay decay, Normaliser normaliser, double norm_eps) {
  return [=]<class Ops>(Ops& o, const typename Ops::Tensor* x, Weights<Ops> w) {
    RecurrenceSpec spec{decay, 4, 2, 3, 5, normaliser, norm_eps};
    spec.first_position = 7;
    RecurrenceInputs<Ops> in;
    in.q = spec.joins() ? o.sigmoid(x[0]) : x[0];
    in.k = spec.joins() ? o.sigmoid(x[1]) : x[1];
    in.v = x[2];
    if (decay == Decay::kScalar) in.log_decay = o.log_sigmoid(o.columns(x[3], 0, 2));
    if (decay == Decay::kPerKey) in.log_decay = o.log_sigmoid(x[3]);
    in.skip = w[0];
    const auto y = o.recurrence(spec, in);
    return spec.joins() ? o.mul_heads(y.out, o.sigmoid(y.log_norm), 4) : y.out;
  };
}

// The recurrence of any decay and a transition that erases, on q, k, v, a decay (to e^-20), a and b out of `x`: [4 * 3], [2 * 3],
// [2 * 5], [2 * 3], [2 * 3], [2 * 3]. Erasing and writing keys are shorter than 1, as the mixers make them, so the state stays bounded.
inline auto rank_one_equation(Decay decay, Transition transition) {
  return [=]<class Ops>(Ops& o, const typename Ops::Tensor* x, Weights<Ops>) {
    RecurrenceSpec spec{decay, 4, 2, 3, 5};
    spec.transition = transition;
    spec.first_position = 7;
    const auto unit = [&](const auto& rows) { return o.scale(o.rms_norm_heads(rows, {}, 2, 1e-5), 0.5); };
    RecurrenceInputs<Ops> in;
    in.q = x[0], in.v = x[2];
    const auto strong = o.scale(o.log_sigmoid(o.scale(x[3], 4)), 2);
    if (decay == Decay::kScalar) in.log_decay = o.columns(strong, 0, 2);
    if (decay == Decay::kPerKey) in.log_decay = strong;
    in.erase = o.neg(unit(x[4]));
    in.k = unit(transition == Transition::kDelta ? x[4] : x[1]);
    if (transition == Transition::kRankOne) in.erase_key = o.mul(unit(x[4]), o.sigmoid(x[5]));
    return o.recurrence(spec, in).out;
  };
}

// fn(Operation, equation) for every operation; equation(ops, x, w) gives a tensor.
template <class Fn>
void for_each_operation(Fn&& fn) {
  fn(Operation{"linear", {12}, {{7, 12}}}, [](auto& o, auto* x, auto* w) { return o.linear(x[0], w[0]); });
  fn(Operation{"linear with bias", {12}, {{7, 12}, {7}}}, [](auto& o, auto* x, auto* w) { return o.linear(x[0], w[0], w[1]); });
  fn(Operation{"head_linear", {3, 12}, {{4, 5, 3}, {4, 5}}}, [](auto& o, auto* x, auto* w) { return o.head_linear(x[1], w[0], w[1], 4); });
  fn(Operation{"head_linear, shared", {3, 12}, {{1, 5, 3}, {1, 5}}}, [](auto& o, auto* x, auto* w) { return o.head_linear(x[1], w[0], w[1], 4); });
  fn(Operation{"head_linear, no bias", {12}, {{1, 5, 3}}}, [](auto& o, auto* x, auto* w) { return o.head_linear(x[0], w[0], {}, 4); });
  fn(Operation{"head_linear, softmax", {12}, {{1, 5, 3}, {1, 5}}},
     [](auto& o, auto* x, auto* w) { return o.softmax_heads(o.head_linear(x[0], w[0], w[1], 4), 4); });
  fn(Operation{"head_linear, exp", {12}, {{1, 5, 3}, {1, 5}}}, [](auto& o, auto* x, auto* w) {
    auto [values, maximum] = o.exp_heads(o.head_linear(x[0], w[0], w[1], 4), 4);
    return o.mul_heads(values, o.exp(maximum), 4);  // the maximum is a constant to the trainer, so the result may not depend on it
  });
  fn(Operation{"short_conv", {3, 37}, {{37, 4}, {37}}}, [](auto& o, auto* x, auto* w) { return o.short_conv(x[1], w[0], w[1]); });
  fn(Operation{"short_conv, no bias", {37}, {{37, 3}}}, [](auto& o, auto* x, auto* w) { return o.short_conv(x[0], w[0], {}); });
  fn(Operation{"short_conv, one tap", {5}, {{5, 1}}}, [](auto& o, auto* x, auto* w) { return o.short_conv(x[0], w[0], {}); });
  fn(Operation{"short_conv, silu", {37}, {{37, 4}}}, [](auto& o, auto* x, auto* w) { return o.silu(o.short_conv(x[0], w[0], {})); });
  fn(Operation{"leaving", {3, 7}}, [](auto& o, auto* x, auto*) { return o.leaving(x[1]); });
  fn(Operation{"previous", {3, 7}}, [](auto& o, auto* x, auto*) { return o.previous(x[1]); });
  fn(Operation{"rope", {24}}, [](auto& o, auto* x, auto*) { return o.rope(x[0], 4); });
  fn(Operation{"rms_norm_heads", {3, 44}, {{11}}}, [](auto& o, auto* x, auto* w) { return o.rms_norm_heads(x[1], w[0], 4, 1e-5); });
  fn(Operation{"rms_norm_heads, own weights", {44}, {{44}}}, [](auto& o, auto* x, auto* w) { return o.rms_norm_heads(x[0], w[0], 4, 1e-5); });
  fn(Operation{"rms_norm_heads, no weights", {44}}, [](auto& o, auto* x, auto*) { return o.rms_norm_heads(x[0], {}, 4, 1e-5); });
  fn(Operation{"softmax_heads", {44}}, [](auto& o, auto* x, auto*) { return o.softmax_heads(x[0], 4); });
  fn(Operation{"exp_heads", {44}}, [](auto& o, auto* x, auto*) {
    auto [values, maximum] = o.exp_heads(x[0], 4);
    return o.mul_heads(values, o.exp(maximum), 4);
  });
  fn(Operation{"center_heads", {3, 44}}, [](auto& o, auto* x, auto*) { return o.center_heads(x[1], 4); });
  fn(Operation{"mirror_heads", {3, 12}}, [](auto& o, auto* x, auto*) { return o.mirror_heads(x[1], 4); });
  fn(Operation{"square_heads", {3, 28}}, [](auto& o, auto* x, auto*) { return o.square_heads(x[1], 4); });
  fn(Operation{"square_heads of one", {4}}, [](auto& o, auto* x, auto*) { return o.square_heads(x[0], 4); });
  fn(Operation{"repeat_heads", {3, 12}}, [](auto& o, auto* x, auto*) { return o.repeat_heads(x[1], 4, 3); });
  fn(Operation{"dot_heads", {44, 44}}, [](auto& o, auto* x, auto*) { return o.dot_heads(x[0], x[1], 4); });
  fn(Operation{"sigmoid", {7}}, [](auto& o, auto* x, auto*) { return o.sigmoid(x[0]); });
  fn(Operation{"log_sigmoid", {7}}, [](auto& o, auto* x, auto*) { return o.log_sigmoid(x[0]); });
  fn(Operation{"silu", {7}}, [](auto& o, auto* x, auto*) { return o.silu(x[0]); });
  fn(Operation{"neg", {7}}, [](auto& o, auto* x, auto*) { return o.neg(x[0]); });
  fn(Operation{"tanh", {7}}, [](auto& o, auto* x, auto*) { return o.tanh(x[0]); });
  fn(Operation{"exp", {7}}, [](auto& o, auto* x, auto*) { return o.exp(x[0]); });
  fn(Operation{"one_minus_exp", {7}}, [](auto& o, auto* x, auto*) { return o.one_minus_exp(x[0]); });
  fn(Operation{"add", {7, 7}}, [](auto& o, auto* x, auto*) { return o.add(x[0], x[1]); });
  fn(Operation{"mul", {7, 7}}, [](auto& o, auto* x, auto*) { return o.mul(x[0], x[1]); });
  fn(Operation{"add_row", {7}, {{7}}}, [](auto& o, auto* x, auto* w) { return o.add_row(x[0], w[0]); });
  fn(Operation{"mul_row", {7}, {{7}}}, [](auto& o, auto* x, auto* w) { return o.mul_row(x[0], w[0]); });
  fn(Operation{"mul_exp_row", {7}, {{7}}}, [](auto& o, auto* x, auto* w) { return o.mul_exp_row(x[0], w[0]); });
  fn(Operation{"same_row", {3}}, [](auto& o, auto* x, auto*) { return o.mul(x[0], o.same_row(x[0], {0.25, -1, 3})); });
  fn(Operation{"scale", {7}}, [](auto& o, auto* x, auto*) { return o.scale(x[0], -0.75); });
  fn(Operation{"mul_heads", {44, 4}}, [](auto& o, auto* x, auto*) { return o.mul_heads(x[0], x[1], 4); });
  for (WindowConfig window : {WindowConfig{5, 2}, WindowConfig{}}) {
    fn(Operation{cat("attention, window ", window.size), {24, 12, 10}, {}, false}, [window](auto& o, auto* x, auto*) {
      const auto y = o.attention(x[0], x[1], x[2], 4, 2, window);
      return o.mul_heads(y.out, y.log_norm, 4);
    });
  }
  fn(Operation{"join", {24, 4, 24, 4}}, [](auto& o, auto* x, auto*) { return o.join({x[0], x[1]}, {x[2], x[3]}, 4); });
  for (Decay decay : {Decay::kNone, Decay::kScalar, Decay::kPerKey}) {
    const auto add = [&](const char* name, Normaliser normaliser, double eps) {
      fn(Operation{cat("recurrence, decay ", int(decay), name), {12, 6, 10, 6}, {{4}}, false}, recurrence_equation(decay, normaliser, eps));
    };
    add("", Normaliser::kNone, 0);
    add(", sum", Normaliser::kSum, 0);
    add(", sum with eps", Normaliser::kSum, 1e-2);
    add(", at least one", Normaliser::kAtLeastOne, 0);
    for (Transition transition : {Transition::kDelta, Transition::kRankOne}) {
      const char* name = transition == Transition::kDelta ? ", delta" : ", rank one";
      fn(Operation{cat("recurrence, decay ", int(decay), name), {12, 6, 10, 6, 6, 6}, {}, false}, rank_one_equation(decay, transition));
    }
  }
}

// The reference's output over ragged rows, one sequence after another from empty states.
template <class Equation>
ReferenceOps::Tensor operation_reference(const Operation& op, const Equation& equation, const std::vector<int64_t>& sizes,
                                         const ReferenceOps::Tensor& x) {
  const PartShape shape = operation_shape();
  std::vector<ReferenceState> states(sizes.size());
  std::vector<ReferenceOps::Segment> segments;
  for (size_t i = 0; i < sizes.size(); ++i) segments.push_back({&states[i], sizes[i]});
  ReferenceOps ops(shape);
  ops.begin(std::move(segments));
  const auto weights = operation_weights(op);
  return apply(equation, ops, op, x, weights.data());
}

}  // namespace retort::conformance
