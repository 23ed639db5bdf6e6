#include "train/shards.h"

#include <algorithm>

namespace retort::train {
namespace {

std::span<std::byte> bytes_of(const at::Tensor& t) { return {static_cast<std::byte*>(t.data_ptr()), size_t(t.nbytes())}; }

void let_go(const Share& share) { share.whole.set_data(at::empty({0}, share.mine.options())); }

}  // namespace

Share* Shards::find(const at::Tensor& tensor) const {
  const auto found = shares_.find(tensor.unsafeGetTensorImpl());
  return found == shares_.end() ? nullptr : found->second.get();
}

Share* Shards::add(const at::Tensor& tensor) {
  if (group_.alone() || !tensor.defined()) return nullptr;
  if (Share* known = find(tensor)) return known;
  auto share = std::make_unique<Share>();
  share->number = added_++;
  share->whole = tensor;
  share->sizes = tensor.sizes().vec();
  share->count = tensor.numel();
  share->part = (share->count + group_.size() - 1) / group_.size();
  share->first = std::min(share->count, share->part * group_.rank());
  share->owned = std::min(share->part, share->count - share->first);
  share->mine = at::zeros({share->part}, tensor.options().requires_grad(false));
  share->mine.narrow(0, 0, share->owned).copy_(tensor.detach().reshape({-1}).narrow(0, share->first, share->owned));
  let_go(*share);
  return (shares_[tensor.unsafeGetTensorImpl()] = std::move(share)).get();
}

void Shards::add(const TorchModel& model) {
  for (const at::Tensor& tensor : all_weights(model)) add(tensor);
}

void Shards::remove(const at::Tensor& tensor) { shares_.erase(tensor.unsafeGetTensorImpl()); }

void Shards::remove(const TorchModel& model) {
  for (const at::Tensor& tensor : all_weights(model)) remove(tensor);
}

Status Shards::fill(Share& share) {
  const at::Tensor whole = at::empty({share.part * group_.size()}, share.mine.options());
  RETORT_RETURN_IF_ERROR(group_.all_gather(bytes_of(share.mine), bytes_of(whole)));
  share.whole.set_data(whole.narrow(0, 0, share.count).view(share.sizes));
  return {};
}

Status Shards::dissolve() {
  std::vector<Share*> all;
  for (const auto& [tensor, share] : shares_) all.push_back(share.get());
  std::sort(all.begin(), all.end(), [](const Share* a, const Share* b) { return a->number < b->number; });
  for (Share* share : all) RETORT_RETURN_IF_ERROR(fill(*share));
  shares_.clear();
  return {};
}

Shards::Hold::~Hold() {
  for (Share* share : shares_) {
    if (--share->users == 0) let_go(*share);
  }
}

Result<Shards::Hold> Shards::gather(const std::vector<at::Tensor>& tensors) {
  Hold hold;
  for (const at::Tensor& tensor : tensors) {
    Share* share = tensor.defined() ? find(tensor) : nullptr;
    if (!share) continue;
    if (share->users == 0) RETORT_RETURN_IF_ERROR(fill(*share));
    ++share->users;
    hold.shares_.push_back(share);
  }
  return hold;
}

Status Shards::reduce(const Share& share, const at::Tensor& gradient, const at::Tensor& mine) {
  const at::Tensor whole = at::zeros({share.part * group_.size()}, at::kFloat), part = at::empty({share.part}, at::kFloat);
  if (gradient.defined()) whole.narrow(0, 0, share.count).copy_(gradient.reshape({-1}));
  RETORT_RETURN_IF_ERROR(group_.reduce_scatter({whole.data_ptr<float>(), size_t(whole.numel())}, {part.data_ptr<float>(), size_t(share.part)}));
  mine.add_(part);
  return {};
}

std::vector<at::Tensor> all_weights(const TorchModel& model) {
  std::vector<at::Tensor> out;
  for (int step = 0; step < step_count(model); ++step) {
    const auto of_step = step_weights(model, step);
    out.insert(out.end(), of_step.begin(), of_step.end());
  }
  out.push_back(model.body.head);
  return out;
}

std::vector<at::Tensor> step_weights(const TorchModel& model, int step) {
  if (step == 0) return {model.body.embedding};
  if (step == step_count(model) - 1) return {model.body.final_norm};
  const Body::Layer& body = model.body.layers[size_t(step - 1)];
  std::vector<at::Tensor> out = {body.input_norm, body.post_norm, body.gate_up, body.down};
  for (const PartWeights& part : model.layers[size_t(step - 1)]) {
    for (const at::Tensor& value : part.values) {
      if (value.defined()) out.push_back(value);
    }
  }
  return out;
}

std::vector<at::Tensor> step_weights(const std::vector<const TorchModel*>& models, int step) {
  std::vector<at::Tensor> out;
  for (const TorchModel* model : models) {
    if (step >= step_count(*model)) continue;
    const auto of_model = step_weights(*model, step);
    out.insert(out.end(), of_model.begin(), of_model.end());
  }
  return out;
}

}  // namespace retort::train
