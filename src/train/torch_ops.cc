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
  return train::head_linear(x.lazy_input, {}, x.lazy_weight, x.lazy_bias, Feature::kNone, numeric_).first;
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
  return out;
}

TorchOps::Tensor TorchOps::softmax_heads(const Tensor& x, int heads) {
  if (x.lazy_weight.defined()) {
    return {train::head_linear(x.lazy_input, {}, x.lazy_weight, x.lazy_bias, Feature::kSoftmax, numeric_).first};
  }
  return {x.t.reshape({x.t.size(0), heads, -1}).softmax(-1).reshape(x.t.sizes())};
}

TorchOps::Pair TorchOps::exp_heads(const Tensor& x, int heads) {
  if (x.lazy_weight.defined()) {
    auto [values, maximum] = train::head_linear(x.lazy_input, {}, x.lazy_weight, x.lazy_bias, Feature::kExp, numeric_);
    return {{values}, {maximum}};
  }
  const at::Tensor z = x.t.reshape({x.t.size(0), heads, -1}), maximum = z.detach().amax(-1);
  return {{at::exp(z - maximum.unsqueeze(-1)).reshape(x.t.sizes())}, {maximum}};
}

TorchOps::Tensor TorchOps::short_conv(const Tensor& x, const Weight& w, const Weight& b) {
  const at::Tensor in = flat(x);
  const int64_t taps = w.t.size(1);
  std::vector<at::Tensor> out;
  for (const Sequence& s : rows_.sequences) {
    const at::Tensor padded = at::constant_pad_nd(in.narrow(0, s.begin, s.size), {0, 0, taps - 1, 0});
    at::Tensor sum = padded.narrow(0, 0, s.size) * w.t.select(1, 0);
    for (int64_t i = 1; i < taps; ++i) sum = sum + padded.narrow(0, i, s.size) * w.t.select(1, i);
    out.push_back(sum);
  }
  const at::Tensor y = at::cat(out);
  return {b ? y + b.t : y};
}

TorchOps::Tensor TorchOps::leaving(const Tensor& x) {
  if (shape_.window.size == 0) return x;
  const at::Tensor in = flat(x);
  std::vector<at::Tensor> out;
  for (const Sequence& s : rows_.sequences) {
    const int64_t empty = std::min<int64_t>(s.size, shape_.window.size);
    out.push_back(at::zeros({empty, in.size(1)}, in.options()));
    if (s.size > empty) out.push_back(in.narrow(0, s.begin, s.size - empty));
  }
  return {at::cat(out)};
}

TorchOps::Tensor TorchOps::rope(const Tensor& x, int heads) { return {train::rope(flat(x), rows_.rope, heads)}; }

TorchOps::Tensor TorchOps::rms_norm_heads(const Tensor& x, const Weight& w, int heads, double eps) {
  const at::Tensor in = flat(x);
  at::Tensor h = in.reshape({in.size(0), heads, -1});
  h = h * at::rsqrt(h.square().mean(-1, true) + eps);
  if (w && w.t.numel() == h.size(2)) h = h * w.t;
  at::Tensor y = h.reshape(in.sizes());
  if (w && w.t.numel() != h.size(2)) y = y * w.t;
  return {y};
}

TorchOps::Tensor TorchOps::mul_heads(const Tensor& x, const Tensor& g, int heads) {
  const at::Tensor in = flat(x);
  return {(in.reshape({in.size(0), heads, -1}) * flat(g).unsqueeze(2)).reshape(in.sizes())};
}

Normalised<TorchOps::Tensor> TorchOps::attention(const Tensor& q, const Tensor& k, const Tensor& v, int heads, int kv_heads,
                                                 const WindowConfig& window) {
  auto [out, norm] = train::attention(flat(q), flat(k), flat(v), heads, kv_heads, window, rows_.sequences, numeric_);
  return {{out}, {norm}};
}

Normalised<TorchOps::Tensor> TorchOps::recurrence(const RecurrenceSpec& spec, const RecurrenceInputs<TorchOps>& in) {
  const at::Tensor v = flat(in.v);
  auto [out, norm] = train::recurrence(spec, flat(in.q), flat(in.k), v, flat(in.log_decay), flat(in.q_log_offset), rows_.sequences, numeric_);
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
