// An equation of the conformance suite in the trainer's backend, with its weights and input as leaves.
//
// Needs LibTorch.
#pragma once

#include "conformance/harness.h"
#include "train/torch_ops.h"

namespace retort::conformance {

inline at::Tensor as_torch(const std::vector<double>& values, std::vector<int64_t> shape, at::ScalarType type) {
  return torch::tensor(values, torch::kFloat64).view(shape).to(type);
}

inline std::vector<double> values_of(const at::Tensor& t) {
  const at::Tensor d = t.detach().to(torch::kFloat64).contiguous();
  return {d.data_ptr<double>(), d.data_ptr<double>() + d.numel()};
}

struct Trained {
  PartShape shape;
  std::vector<int64_t> sizes;  // of the sequences
  at::ScalarType type;
  train::Numeric numeric;
  std::vector<at::Tensor> weights{};  // undefined where absent
  at::Tensor x{};

  Trained(PartShape s, const std::vector<ReferenceOps::Weight>& values, const ReferenceOps::Tensor& input, std::vector<int64_t> lengths,
          at::ScalarType t, train::Numeric n)
      : shape(std::move(s)), sizes(std::move(lengths)), type(t), numeric(n), x(as_torch(input.values, {input.rows, input.columns}, t)) {
    for (const auto& weight : values) weights.push_back(weight ? as_torch(weight.values, weight.shape, t) : at::Tensor());
  }

  // equation(ops, x, weights)
  template <class Equation>
  at::Tensor run(const Equation& equation) const {
    std::vector<train::Sequence> sequences;
    for (int64_t n : sizes) sequences.push_back({sequences.empty() ? 0 : sequences.back().begin + sequences.back().size, n});
    const train::Rows rows = train::Rows::make(sequences, shape.rope, shape.head_dim, type);
    train::TorchOps ops(rows, shape, numeric);
    std::vector<train::TorchOps::Weight> handles;
    for (const auto& w : weights) handles.push_back({w});
    return ops.flat(equation(ops, train::TorchOps::Tensor(x), handles.data()));
  }

  // Of the input, then of the weights that are present; undefined where the equation does not use one.
  std::vector<at::Tensor> gradients(const auto& equation, const at::Tensor& direction) {
    std::vector<at::Tensor> leaves = {x.requires_grad_()};
    for (at::Tensor& w : weights) {
      if (w.defined()) leaves.push_back(w.requires_grad_());
    }
    const at::Tensor y = run(equation);
    return torch::autograd::grad({y}, leaves, {direction.to(y.scalar_type())}, std::nullopt, false, true);
  }
};

template <class Mixer>
auto mixer_equation(const World& w) {
  return [&w](train::TorchOps& ops, const train::TorchOps::Tensor& x, Weights<train::TorchOps> weights) {
    return part_forward<Mixer>(ops, *parse_config<Mixer>(w.part().config), w.shape, weights, x);
  };
}

}  // namespace retort::conformance
