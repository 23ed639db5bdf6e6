#include "train/top_logits.h"

#include <cmath>
#include <limits>

#include "train/stages.h"

namespace retort::train {

TopLogits top_logits(const at::Tensor& hidden, const at::Tensor& head, int top_k, double temperature) {
  const at::NoGradGuard no_grad;
  const at::Tensor narrow_head = head.to(hidden.scalar_type());
  const bool all = top_k == head.size(0);
  TopLogits out;
  for (int64_t i = 0; i < hidden.size(0); i += kLogitPositions) {
    const int64_t n = std::min(kLogitPositions, hidden.size(0) - i);
    at::Tensor logits = product(hidden.narrow(0, i, n), narrow_head.t()).to(at::kFloat);
    if (temperature != 1) logits = logits / temperature;
    const at::Tensor log_p = at::log_softmax(logits, 1);
    const auto [largest, unsorted] = log_p.topk(top_k, 1, true, false);
    const auto [ids, order] = unsorted.sort(1);
    const at::Tensor values = largest.gather(1, order).contiguous(), id = ids.to(at::kInt).contiguous();
    const at::Tensor rest = (all ? at::zeros({n}) : (1 - values.to(at::kDouble).exp().sum(1)).clamp(0, 1)).to(at::kFloat).contiguous();
    out.ids.insert(out.ids.end(), id.data_ptr<int>(), id.data_ptr<int>() + id.numel());
    out.log_p.insert(out.log_p.end(), values.data_ptr<float>(), values.data_ptr<float>() + values.numel());
    out.rest.insert(out.rest.end(), rest.data_ptr<float>(), rest.data_ptr<float>() + n);
  }
  return out;
}

SoftTargets targets_at(const TopLogits& logits, int top_k, const at::Tensor& positions) {
  const auto rows = int64_t(logits.rest.size());
  const auto of = [&](const auto& values, at::ScalarType type, int64_t width) {
    return torch::from_blob(const_cast<void*>(static_cast<const void*>(values.data())), {rows, width}, type).index_select(0, positions);
  };
  SoftTargets out;
  out.ids = of(logits.ids, at::kInt, top_k).to(at::kLong);
  out.log_p = of(logits.log_p, at::kFloat, top_k);
  out.p = out.log_p.exp();
  out.rest = of(logits.rest, at::kFloat, 1);
  return out;
}

SoftSums top_loss(const at::Tensor& logits, const SoftTargets& targets, const at::Tensor& mask) {
  const at::Tensor p = targets.p.to(logits.scalar_type()), log_p = targets.log_p.to(logits.scalar_type()), rest = targets.rest.to(logits.scalar_type());
  const at::Tensor whole = logits.logsumexp(1, true);
  const at::Tensor log_q = logits.gather(1, targets.ids) - whole;
  at::Tensor cross = -(p * log_q).sum(1, true), entropy = -(p * log_p).sum(1, true);
  at::Tensor wanted;   // the teacher's distribution, its rest as the student spreads its own
  if (targets.ids.size(1) < logits.size(1)) {
    const at::Tensor others = logits.scatter(1, targets.ids, -std::numeric_limits<double>::infinity());
    const at::Tensor log_s = others.logsumexp(1, true) - whole;
    cross -= rest * log_s;
    entropy -= at::xlogy(rest, rest);
    wanted = at::softmax(others, 1).mul_(rest);
    wanted.scatter_(1, targets.ids, p);
  } else {
    wanted = at::zeros_like(logits).scatter_(1, targets.ids, p);
  }
  at::Tensor gradient = at::softmax(logits, 1).sub_(wanted);
  if (mask.defined()) {
    cross *= mask, entropy *= mask;
    gradient.mul_(mask);
  }
  return {cross.sum().item<double>(), entropy.sum().item<double>(), gradient};
}

}  // namespace retort::train
