#include "train/torch_ops.h"

#include <cmath>
#include <limits>

namespace retort::train {
namespace {

// Decaying recurrences, written out in chunks with plain differentiable operations. One sequence:
// q[H, n, K] k[G, n, K] v[G, n, V] l[G, n, 1 or K] -> [H, n, V].
at::Tensor decaying(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& l) {
  const int64_t heads = q.size(0), kv_heads = k.size(0), n = q.size(1), keys = k.size(2);
  const bool scalar = l.size(2) == 1;
  const int64_t chunk = scalar ? 64 : 16;
  const at::Tensor qg = q.reshape({kv_heads, heads / kv_heads, n, keys});
  at::Tensor state = at::zeros({kv_heads, keys, v.size(2)}, v.options());
  std::vector<at::Tensor> out;
  for (int64_t begin = 0; begin < n; begin += chunk) {
    const int64_t c = std::min(chunk, n - begin);
    const at::Tensor qc = qg.narrow(2, begin, c), kc = k.narrow(1, begin, c), vc = v.narrow(1, begin, c);
    const at::Tensor sum = l.narrow(1, begin, c).cumsum(1);  // [G, c, K']
    const at::Tensor future = at::ones({c, c}, at::kBool).triu(1).view({1, c, c, 1});
    const at::Tensor kept =
        (sum.unsqueeze(2) - sum.unsqueeze(1)).masked_fill(future, -std::numeric_limits<double>::infinity()).exp();  // [G, c, c, K']
    const at::Tensor a = scalar ? at::matmul(qc, kc.unsqueeze(1).transpose(2, 3)) * kept.squeeze(3).unsqueeze(1)
                                : at::einsum("gntk,gsk,gtsk->gnts", {qc, kc, kept});
    const at::Tensor from_state = at::matmul(qc * sum.exp().unsqueeze(1), state.unsqueeze(1));
    out.push_back(at::matmul(a, vc.unsqueeze(1)) + from_state);
    const at::Tensor last = sum.narrow(1, c - 1, 1);
    state = last.exp().transpose(1, 2) * state + at::bmm((kc * (last - sum).exp()).transpose(1, 2), vc);
  }
  return at::cat(out, 2).reshape({heads, n, v.size(2)});
}

}  // namespace

Rows Rows::make(const std::vector<Sequence>& sequences, const RopeConfig& rope, int head_dim, at::ScalarType type) {
  Rows rows;
  rows.sequences = sequences;
  for (const Sequence& s : sequences) rows.total += s.size;
  rows.rope = rope_table(sequences, rope, head_dim, type);
  return rows;
}

at::Tensor TorchOps::flat(const Tensor& x) {
  if (x.lazy_weight.defined()) {
    return flat({train::head_linear(x.lazy_input, {}, x.lazy_weight, x.lazy_bias, Feature::kNone, numeric_).first, true});
  }
  return x.head_major ? x.t.transpose(0, 1).reshape({x.t.size(1), -1}) : x.t;
}

at::Tensor TorchOps::by_head(const Tensor& x, int heads) {
  return x.head_major ? x.t : x.t.reshape({x.t.size(0), heads, -1}).transpose(0, 1);
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
  if (!x.lazy_weight.defined()) return {by_head(x, heads).softmax(-1), true};
  return {train::head_linear(x.lazy_input, {}, x.lazy_weight, x.lazy_bias, Feature::kSoftmax, numeric_).first, true};
}

TorchOps::Pair TorchOps::exp_heads(const Tensor& x, int heads) {
  if (x.lazy_weight.defined()) {
    auto [values, maximum] = train::head_linear(x.lazy_input, {}, x.lazy_weight, x.lazy_bias, Feature::kExp, numeric_);
    return {{values, true}, {maximum.t()}};
  }
  const at::Tensor z = by_head(x, heads), maximum = z.detach().amax(-1);
  return {{at::exp(z - maximum.unsqueeze(-1)), true}, {maximum.t()}};
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
  const at::Tensor h = by_head(x, heads);
  return {h * flat(g).t().unsqueeze(2), true};
}

Normalised<TorchOps::Tensor> TorchOps::attention(const Tensor& q, const Tensor& k, const Tensor& v, int heads, int kv_heads,
                                                 const WindowConfig& window) {
  auto [out, norm] = train::attention(flat(q), flat(k), flat(v), heads, kv_heads, window, rows_.sequences, numeric_);
  return {{out, true}, {norm}};
}

Normalised<TorchOps::Tensor> TorchOps::recurrence(const RecurrenceSpec& spec, const RecurrenceInputs<TorchOps>& in) {
  const at::Tensor q = by_head(in.q, spec.heads), k = by_head(in.k, spec.kv_heads);
  if (spec.decay == Decay::kNone && spec.normalised && !in.skip) {
    auto [out, norm] = sum_recurrence(q, k, flat(in.v), spec.value_dim, spec.first_position, rows_.sequences);
    if (in.q_log_offset) norm = norm + flat(in.q_log_offset);
    return {{out, true}, {norm}};
  }
  const at::Tensor v = by_head(in.v, spec.kv_heads);
  const at::Tensor l = spec.decay == Decay::kNone ? at::zeros({spec.kv_heads, v.size(1), 1}, v.options()) : by_head(in.log_decay, spec.kv_heads);
  std::vector<at::Tensor> outs;
  for (const Sequence& s : rows_.sequences) {
    const at::Tensor writes = at::arange(s.size).ge(spec.first_position).to(v.scalar_type()).view({1, s.size, 1});
    at::Tensor vs = v.narrow(1, s.begin, s.size);
    if (spec.normalised) vs = at::cat({vs, at::ones({spec.kv_heads, s.size, 1}, v.options())}, 2);
    outs.push_back(decaying(q.narrow(1, s.begin, s.size).to(v.scalar_type()), k.narrow(1, s.begin, s.size).to(v.scalar_type()) * writes, vs,
                            l.narrow(1, s.begin, s.size) * writes));
  }
  at::Tensor y = at::cat(outs, 1), norm;
  if (spec.normalised) {
    const at::Tensor z = y.select(2, spec.value_dim);
    const at::Tensor written = z.gt(kLeastNorm), safe = z.masked_fill(written.logical_not(), 1);
    y = y.narrow(2, 0, spec.value_dim).masked_fill(written.logical_not().unsqueeze(2), 0) / safe.unsqueeze(2);
    norm = safe.log().masked_fill(written.logical_not(), kNothingWritten).t();
    if (in.q_log_offset) norm = norm + flat(in.q_log_offset);
  }
  if (in.skip) y = y + in.skip.t.view({-1, 1, 1}) * v.repeat_interleave(spec.heads / spec.kv_heads, 0);
  Normalised<Tensor> result{{y, true}, {}};
  if (norm.defined()) result.log_norm = {norm};
  return result;
}

TorchOps::Tensor TorchOps::join(const Normalised<Tensor>& a, const Normalised<Tensor>& b, int heads) {
  const at::Tensor share = at::sigmoid(flat(b.log_norm) - flat(a.log_norm)).t().unsqueeze(2);
  return {at::lerp(by_head(a.out, heads), by_head(b.out, heads), share.expand({heads, -1, a.out.t.size(-1)})), true};
}

}  // namespace retort::train
