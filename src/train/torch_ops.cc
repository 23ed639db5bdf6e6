#include "train/torch_ops.h"

namespace retort::train {

Rows Rows::make(const std::vector<Sequence>& sequences, const RopeConfig& rope, int head_dim, at::ScalarType type) {
  Rows rows;
  rows.sequences = sequences;
  for (const Sequence& s : sequences) rows.total += s.size;
  rows.rope = rope_table(sequences, rope, head_dim, type);
  return rows;
}

at::Tensor TorchOps::flat(const Tensor& x) {
  if (!x.lazy_weight.defined()) return x.t;
  return train::head_linear(x.lazy_input, {}, x.lazy_weight, x.lazy_bias, Feature::kNone, numeric_).first.reshape({rows_.total, -1});
}

const at::Tensor& TorchOps::low(const at::Tensor& x) {
  if (!low_.defined() || !low_of_.is_same(x)) {
    low_of_ = x;
    low_ = x.detach().to(at::kBFloat16);
  }
  return low_;
}

TorchOps::Tensor TorchOps::linear(const Tensor& x, const Weight& w, const Weight& b) {
  const at::Tensor in = flat(x);
  return {train::linear(in, numeric_ == Numeric::kFast ? low(in) : at::Tensor(), w.t, b.t, numeric_)};
}

TorchOps::Tensor TorchOps::head_linear(const Tensor& x, const Weight& w, const Weight& b, int) {
  Tensor out;
  out.lazy_input = flat(x), out.lazy_weight = w.t, out.lazy_bias = b.t;
  if (w.t.size(0) == 1) out.lazy_input = out.lazy_input.reshape({-1, w.t.size(2)});
  return out;
}

TorchOps::Tensor TorchOps::softmax_heads(const Tensor& x, int heads) {
  if (x.lazy_weight.defined()) {
    return {train::head_linear(x.lazy_input, {}, x.lazy_weight, x.lazy_bias, Feature::kSoftmax, numeric_).first.reshape({rows_.total, -1})};
  }
  return {by_head(x, heads).softmax(-1).reshape(x.t.sizes())};
}

TorchOps::Pair TorchOps::exp_heads(const Tensor& x, int heads) {
  if (x.lazy_weight.defined()) {
    auto [values, maximum] = train::head_linear(x.lazy_input, {}, x.lazy_weight, x.lazy_bias, Feature::kExp, numeric_);
    return {{values.reshape({rows_.total, -1})}, {maximum.reshape({rows_.total, heads})}};
  }
  const at::Tensor z = by_head(x, heads), maximum = z.detach().amax(-1);
  return {{at::exp(z - maximum.unsqueeze(-1)).reshape(x.t.sizes())}, {maximum}};
}

TorchOps::Tensor TorchOps::columns(const Tensor& x, int first, int count) {
  const at::Tensor source = flat(x);
  for (const Slices& s : slices_) {
    if (s.source().is_same(source)) return {s.columns(first, count)};
  }
  return {slices_.emplace_back(source).columns(first, count)};
}

TorchOps::Tensor TorchOps::rope(const Tensor& x, int heads) { return {train::rope(flat(x), rows_.rope, heads)}; }

TorchOps::Tensor TorchOps::center_heads(const Tensor& x, int heads) {
  const at::Tensor h = by_head(x, heads);
  return {(h - h.mean(-1, true)).reshape({rows_.total, -1})};
}

TorchOps::Tensor TorchOps::mirror_heads(const Tensor& x, int heads) {
  const at::Tensor h = by_head(x, heads);
  return {at::cat({h, -h}, -1).reshape({rows_.total, -1})};
}

TorchOps::Tensor TorchOps::square_heads(const Tensor& x, int heads) { return {train::square_heads(flat(x), heads, numeric_)}; }

TorchOps::Tensor TorchOps::repeat_heads(const Tensor& x, int heads, int times) {
  const at::Tensor h = by_head(x, heads).unsqueeze(2);
  return {h.expand({rows_.total, heads, times, h.size(3)}).reshape({rows_.total, -1})};
}

TorchOps::Tensor TorchOps::dot_heads(const Tensor& a, const Tensor& b, int heads) {
  return {(flat(a) * flat(b)).reshape({rows_.total, heads, -1}).sum(-1)};
}

TorchOps::Tensor TorchOps::same_row(const Tensor& x, const std::vector<double>& values) {
  const at::ScalarType type = numeric_ == Numeric::kFast ? at::kFloat : flat(x).scalar_type();
  return {torch::tensor(values, at::kDouble).to(type).expand({rows_.total, int64_t(values.size())})};
}

TorchOps::Tensor TorchOps::mul_heads(const Tensor& x, const Tensor& g, int heads) {
  return {(by_head(x, heads) * flat(g).unsqueeze(2)).reshape({rows_.total, -1})};
}

Normalised<TorchOps::Tensor> TorchOps::attention(const Tensor& q, const Tensor& k, const Tensor& v, int heads, int kv_heads,
                                                 const WindowConfig& window) {
  auto [out, norm] = train::attention(flat(q), flat(k), flat(v), heads, kv_heads, window, rows_.sequences, numeric_);
  return {{out}, {norm}};
}

Normalised<TorchOps::Tensor> TorchOps::recurrence(const RecurrenceSpec& spec, const RecurrenceInputs<TorchOps>& in) {
  const at::Tensor v = flat(in.v);
  at::Tensor out, norm;
  if (spec.transition != Transition::kDiagonal) {
    out = train::rank_one(spec, flat(in.q), flat(in.k), v, flat(in.log_decay), flat(in.erase), flat(in.erase_key), rows_.sequences, numeric_);
  } else if (spec.decay == Decay::kPerCell) {
    out = train::selective_scan(spec, flat(in.q), flat(in.k), v, flat(in.log_decay), in.decay_rate.t, rows_.sequences, numeric_);
  } else {
    std::tie(out, norm) = train::recurrence(spec, flat(in.q), flat(in.k), v, flat(in.log_decay), flat(in.q_log_offset), rows_.sequences,
                                            numeric_);
  }
  if (in.skip) {
    const at::Tensor values = v.reshape({v.size(0), spec.kv_heads, 1, spec.value_dim})
                                  .expand({v.size(0), spec.kv_heads, spec.heads / spec.kv_heads, spec.value_dim})
                                  .reshape({v.size(0), spec.heads, spec.value_dim});
    out = out + (values * in.skip.t.unsqueeze(1)).reshape(out.sizes());
  }
  Normalised<Tensor> result{{out}, {}};
  if (norm.defined()) result.log_norm = {norm};
  return result;
}

TorchOps::Tensor TorchOps::join(const Normalised<Tensor>& a, const Normalised<Tensor>& b, int heads) {
  const at::Tensor share = at::sigmoid(flat(b.log_norm) - flat(a.log_norm)).unsqueeze(2);
  const at::Tensor x = flat(a.out), y = flat(b.out);
  const auto by_head = [&](const at::Tensor& t) { return t.reshape({t.size(0), heads, -1}); };
  return {at::lerp(by_head(x), by_head(y), share).reshape(x.sizes())};
}

}  // namespace retort::train
