// The tiny teacher in torch and a student of random gla mixers on it, and what a model says about a text, by plain loops. For tests of
// losses.
#pragma once

#include <cmath>

#include "support/tiny_model.h"
#include "train/stages.h"

namespace retort::train::fake {

struct TinyPair {
  TorchModel teacher, student;
};

// In f64 (kExact), or as in training (kFast). `folder` is new.
inline Result<TinyPair> tiny_pair(const std::string& folder, Numeric numeric) {
  const at::ScalarType type = numeric == Numeric::kExact ? at::kDouble : at::kFloat;
  RETORT_RETURN_IF_ERROR(retort::test::write_tiny_model(folder));
  RETORT_TRY(const auto files, open_model(folder));
  TinyPair out;
  RETORT_TRY(out.teacher, load_model(files, numeric, type));
  out.student = out.teacher;
  torch::manual_seed(3);
  for (LayerPlan& layer : out.student.config.plan) layer.parts[0].mixer = "gla", layer.parts[0].config = nlohmann::json::object();
  RETORT_RETURN_IF_ERROR(validate_plan(out.student.config));
  out.student.layers = empty_parts(out.student.config);
  for (auto& parts : out.student.layers) {
    for (size_t i = 0; i < parts[0].table.size(); ++i) {
      const TensorSpec& spec = parts[0].table[i];
      if (spec.present()) parts[0].values[i] = at::randn(spec.shape, type) / std::sqrt(double(spec.shape.back()));
    }
  }
  return out;
}

// log p(v | tokens up to t) for every t and v, of one sequence alone.
inline std::vector<std::vector<double>> log_probabilities(const TorchModel& model, std::span<const int32_t> tokens) {
  const at::NoGradGuard no_grad;
  const Rows rows = Rows::make({{0, int64_t(tokens.size())}}, model.config.rope, model.config.head_dim, model.wide());
  const at::Tensor hidden = run_model(model, tokens, rows).to(at::kDouble).contiguous(), head = model.body.head.to(at::kDouble).contiguous();
  const int64_t width = hidden.size(1), vocabulary = head.size(0);
  std::vector<std::vector<double>> out;
  for (int64_t t = 0; t < hidden.size(0); ++t) {
    auto& row = out.emplace_back(size_t(vocabulary), 0.0);
    double sum = 0;
    for (int64_t v = 0; v < vocabulary; ++v) {
      for (int64_t d = 0; d < width; ++d) row[size_t(v)] += hidden.data_ptr<double>()[t * width + d] * head.data_ptr<double>()[v * width + d];
      sum += std::exp(row[size_t(v)]);
    }
    for (double& z : row) z -= std::log(sum);
  }
  return out;
}

// The tokens of every sequence of a batch, and where it begins.
inline std::vector<std::pair<size_t, std::vector<int32_t>>> sequences_of(const Batch& batch) {
  std::vector<std::pair<size_t, std::vector<int32_t>>> out;
  for (size_t i = 0; i < batch.starts.size(); ++i) {
    const size_t begin = size_t(batch.starts[i]), end = i + 1 < batch.starts.size() ? size_t(batch.starts[i + 1]) : batch.tokens.size();
    out.push_back({begin, {batch.tokens.begin() + std::ptrdiff_t(begin), batch.tokens.begin() + std::ptrdiff_t(end)}});
  }
  return out;
}

// The derivative of loss() by `value` along a random direction: `gradient`'s and, by central differences, the loss's own.
template <class Loss>
std::pair<double, double> slopes(at::Tensor& value, const at::Tensor& gradient, const Loss& loss, double step = 1e-5) {
  const at::Tensor kept = value.detach().clone(), direction = at::randn_like(kept);
  const auto moved = [&](double by) {
    value.detach().copy_(kept + by * direction);
    const double result = loss();
    value.detach().copy_(kept);
    return result;
  };
  return {(gradient * direction).sum().template item<double>(), (moved(step) - moved(-step)) / (2 * step)};
}

}  // namespace retort::train::fake
