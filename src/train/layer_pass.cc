#include "train/layer_pass.h"

#include <algorithm>

#include "train/tasks.h"

namespace retort::train {

LayerPass::LayerPass(const StageContext& context, std::vector<const TorchModel*> models, bool checkpoint_activations)
    : context_(context), models_(std::move(models)), recompute_(checkpoint_activations), leaves_(size_t(step_count(context.student))) {
  first_ = int(leaves_.size());
  for (int step = int(leaves_.size()) - 1; step >= 0; --step) {
    const auto weights = step_weights(context.student, step);
    for (Leaf* leaf : context.leaves) {
      if (std::any_of(weights.begin(), weights.end(), [&](const at::Tensor& w) { return w.is_same(leaf->value); })) leaves_[size_t(step)].push_back(leaf);
    }
    if (!leaves_[size_t(step)].empty()) first_ = step;
  }
}

size_t LayerPass::add(const TorchModel& model, std::span<const int32_t> tokens, Rows rows, const at::Tensor& positions) {
  const size_t kept = &model == &context_.student ? leaves_.size() : 0;
  rows_.push_back({&model, tokens, std::move(rows), positions, {}, std::vector<at::Tensor>(kept), std::vector<at::Tensor>(kept)});
  return rows_.size() - 1;
}

at::Tensor LayerPass::compute(const Row& row, int step, const at::Tensor& input) const {
  if (step == 0) return embed(*row.model, row.tokens);
  if (step <= row.model->config.layers) return run_layer(*row.model, step - 1, input, row.rows);
  return final_norm(*row.model, input).index_select(0, row.positions);
}

void LayerPass::forward(Row& row, int step) const {
  const bool trains = row.model == &context_.student && step >= first_;
  at::Tensor input = row.state;
  if (trains && step > first_) input = input.detach().requires_grad_();
  const at::AutoGradMode graph(trains && !recompute_);
  const at::Tensor output = compute(row, step, input);
  if (trains) row.inputs[size_t(step)] = input;
  if (trains && !recompute_) row.outputs[size_t(step)] = output;
  row.state = output.detach();
}

std::vector<at::Tensor> LayerPass::backward(Row& row, int step, at::Tensor& gradient) const {
  at::Tensor input = std::move(row.inputs[size_t(step)]), output = std::move(row.outputs[size_t(step)]);
  if (recompute_) {
    const at::AutoGradMode graph(true);
    output = compute(row, step, input);
  }
  std::vector<at::Tensor> values;
  for (const Leaf* leaf : leaves_[size_t(step)]) values.push_back(leaf->value);
  const size_t leaves = values.size();
  if (!output.requires_grad()) return std::vector<at::Tensor>(leaves);
  if (step > first_) values.push_back(input);
  auto gradients = torch::autograd::grad({output}, values, {gradient.to(output.scalar_type())}, std::nullopt, false, true);
  if (step > first_) gradient = gradients.back();
  gradients.resize(leaves);
  return gradients;
}

Result<Shards::Hold> LayerPass::weights(int step, const std::vector<const TorchModel*>& models) const {
  return gather(context_, step_weights(models, step));
}

Status LayerPass::forward() {
  int steps = 0;
  for (const TorchModel* model : models_) steps = std::max(steps, step_count(*model));
  for (int step = 0; step < steps; ++step) {
    RETORT_TRY(const Shards::Hold hold, weights(step, models_));
    RETORT_RETURN_IF_ERROR(run_tasks(context_.pool, int64_t(rows_.size()), [&](int64_t i) {
      if (step < step_count(*rows_[size_t(i)].model)) forward(rows_[size_t(i)], step);
    }));
  }
  return {};
}

Status LayerPass::backward(std::vector<at::Tensor> gradients) {
  gradients.resize(rows_.size());
  std::vector<size_t> trained;
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (gradients[i].defined()) trained.push_back(i);
  }
  for (int step = int(leaves_.size()) - 1; step >= first_; --step) {
    RETORT_TRY(Shards::Hold hold, weights(step, {&context_.student}));
    std::vector<std::vector<at::Tensor>> of_rows(trained.size());
    RETORT_RETURN_IF_ERROR(run_tasks(context_.pool, int64_t(trained.size()), [&](int64_t i) {
      of_rows[size_t(i)] = backward(rows_[trained[size_t(i)]], step, gradients[trained[size_t(i)]]);
    }));
    hold = {};
    const auto& leaves = leaves_[size_t(step)];
    for (size_t k = 0; k < leaves.size(); ++k) {
      std::vector<at::Tensor> of_leaf;
      for (auto& of_row : of_rows) of_leaf.push_back(std::move(of_row[k]));
      RETORT_RETURN_IF_ERROR(add_gradient(context_, *leaves[k], of_leaf));
    }
  }
  return {};
}

Status add_gradient(const StageContext& context, Leaf& leaf, std::span<const at::Tensor> of_rows) {
  if (!leaf.share) {
    for (const at::Tensor& gradient : of_rows) {
      if (gradient.defined()) leaf.gradient.add_(gradient);
    }
    return {};
  }
  at::Tensor sum;
  for (const at::Tensor& gradient : of_rows) {
    if (gradient.defined()) sum = sum.defined() ? sum + gradient : gradient;
  }
  return context.shards->reduce(*leaf.share, sum, leaf.gradient);
}

Status add_head_gradient(const StageContext& context, std::span<const at::Tensor> of_rows) {
  for (Leaf* leaf : context.leaves) {
    if (leaf->value.is_same(context.student.body.head)) return add_gradient(context, *leaf, of_rows);
  }
  return {};
}

Result<Shards::Hold> gather(const StageContext& context, const std::vector<at::Tensor>& tensors) {
  if (!context.shards) return Shards::Hold();
  return context.shards->gather(tensors);
}

Result<Shards::Hold> gather_heads(const StageContext& context, const std::vector<const TorchModel*>& models) {
  std::vector<at::Tensor> heads;
  for (const TorchModel* model : models) heads.push_back(model->body.head);
  return gather(context, heads);
}

}  // namespace retort::train
