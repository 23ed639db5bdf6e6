// Softmax attention: torch's own when there is no window, blocks of the window's size otherwise.
#include <cmath>
#include <limits>

#include "train/functions.h"

namespace retort::train {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// A sequence cut into blocks of `size` = window tokens: a query sees keys of its own block, of the block before and the sinks.
struct Blocks {
  int64_t heads, kv_heads, group, size, sinks, tokens, count, padded, columns;

  Blocks(int64_t h, int64_t g, int64_t window, int64_t sink_count, int64_t n)
      : heads(h), kv_heads(g), group(h / g), size(window), sinks(sink_count), tokens(n), count((n + window - 1) / window),
        padded(count * window), columns(2 * window + sink_count) {}

  Tensor pad(const Tensor& x, int64_t to) const {
    return x.size(0) < to ? at::constant_pad_nd(x, {0, 0, 0, to - x.size(0)}) : x;
  }
  // [n, H*d] -> [G*count, group*size, d]
  Tensor queries(const Tensor& x, at::ScalarType type) const {
    const int64_t d = x.size(1) / heads;
    return pad(x, padded).to(type).view({count, size, kv_heads, group, d}).permute({2, 0, 3, 1, 4}).reshape({kv_heads * count, group * size, d});
  }
  // [n, G*d] -> [G*count, 2*size + sinks, d]
  Tensor keys(const Tensor& x, at::ScalarType type) const {
    const int64_t d = x.size(1) / kv_heads;
    const Tensor all = pad(x, padded).to(type).view({padded, kv_heads, d}).transpose(0, 1);  // [G, padded, d]
    const Tensor current = all.reshape({kv_heads, count, size, d});
    const Tensor before = at::cat({at::zeros({kv_heads, 1, size, d}, all.options()), current.narrow(1, 0, count - 1)}, 1);
    std::vector<Tensor> pieces = {before, current};
    if (sinks > 0) {
      const Tensor first = sinks <= padded ? all.narrow(1, 0, sinks) : at::constant_pad_nd(all, {0, 0, 0, sinks - padded});
      pieces.push_back(first.unsqueeze(1).expand({kv_heads, count, sinks, d}));
    }
    return at::cat(pieces, 2).view({kv_heads * count, columns, d});
  }
  // Gradient of keys(): [G*count, columns, d] -> [n, G*d] f32 or f64
  Tensor keys_back(const Tensor& gradient, at::ScalarType type) const {
    const int64_t d = gradient.size(2);
    const Tensor g = gradient.to(type).view({kv_heads, count, columns, d});
    Tensor all = g.narrow(2, size, size).clone();
    if (count > 1) all.narrow(1, 0, count - 1) += g.narrow(2, 0, size).narrow(1, 1, count - 1);
    all = all.view({kv_heads, padded, d});
    if (sinks > 0) {
      const int64_t real = std::min(sinks, padded);
      all.narrow(1, 0, real) += g.narrow(2, 2 * size, real).sum(1);
    }
    return all.narrow(1, 0, tokens).transpose(0, 1).reshape({tokens, kv_heads * d});
  }
  // [G*count, group*size, d] -> [H, n, d]
  Tensor by_head(const Tensor& x) const {
    const int64_t d = x.size(2);
    return x.view({kv_heads, count, group, size, d}).permute({0, 2, 1, 3, 4}).reshape({heads, padded, d}).narrow(1, 0, tokens);
  }
  // [H, n, d] -> [G*count, group*size, d]
  Tensor from_head(const Tensor& x) const {
    const int64_t d = x.size(2);
    const Tensor whole = tokens < padded ? at::constant_pad_nd(x, {0, 0, 0, padded - tokens}) : x;
    return whole.reshape({kv_heads, group, count, size, d}).transpose(1, 2).reshape({kv_heads * count, group * size, d});
  }
  // 0 where query (block, row) may see the column, -inf elsewhere. [count, 1, size, columns]
  Tensor mask(const at::TensorOptions& options) const {
    const Tensor block = at::arange(count).view({count, 1, 1}), row = at::arange(size).view({1, size, 1});
    const Tensor query = block * size + row;
    const Tensor key = (block - 1) * size + at::arange(2 * size).view({1, 1, 2 * size});
    Tensor seen = key.ge(0) & key.le(query) & key.gt(query - size);
    if (sinks > 0) seen = at::cat({seen, at::arange(sinks).view({1, 1, sinks}).le(query - size)}, 2);
    return at::zeros({count, size, columns}, options).masked_fill_(seen.logical_not(), -std::numeric_limits<double>::infinity()).unsqueeze(1);
  }
};

// Masks repeat from layer to layer and step to step.
const Tensor& cached_mask(const Blocks& b, const at::TensorOptions& options) {
  struct Entry {
    int64_t size = -1, sinks = -1, count = -1;
    at::ScalarType type = at::kFloat;
    Tensor mask;
  };
  thread_local std::vector<Entry> cache(8);
  thread_local size_t next = 0;
  const auto type = c10::typeMetaToScalarType(options.dtype());
  for (const Entry& e : cache) {
    if (e.size == b.size && e.sinks == b.sinks && e.count == b.count && e.type == type) return e.mask;
  }
  Entry& e = cache[next++ % cache.size()];
  e = {b.size, b.sinks, b.count, type, b.mask(options)};
  return e.mask;
}

struct WindowAttention : Function<WindowAttention> {
  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v, int64_t heads, int64_t kv_heads,
                               int64_t window, int64_t sinks, const std::vector<Sequence>& sequences, bool fast) {
    const at::ScalarType wide = q.scalar_type(), narrow = fast ? at::kBFloat16 : wide;
    const double scale = 1.0 / std::sqrt(double(q.size(1) / heads));
    variable_list saved;
    std::vector<Tensor> outs, norms;
    std::vector<int64_t> sizes;
    for (const Sequence& s : sequences) {
      const Blocks b(heads, kv_heads, window, sinks, s.size);
      const Tensor qb = b.queries(q.narrow(0, s.begin, s.size), narrow), kb = b.keys(k.narrow(0, s.begin, s.size), narrow),
                   vb = b.keys(v.narrow(0, s.begin, s.size), narrow);
      Tensor scores = product(qb, kb.transpose(1, 2)).to(wide).mul_(scale);
      scores.view({b.kv_heads, b.count, b.group, b.size, b.columns}).add_(cached_mask(b, q.options()));
      const Tensor most = scores.amax(-1, true);
      scores.sub_(most).exp_();
      const Tensor sum = scores.sum(-1, true);
      const Tensor p = scores.div_(sum).to(narrow);
      const Tensor out = product(p, vb).to(wide), norm = most.add_(sum.log());
      saved.insert(saved.end(), {qb, kb, vb, p, out});
      outs.push_back(b.by_head(out));
      norms.push_back(b.by_head(norm).squeeze(2).t());
      sizes.push_back(s.begin);
      sizes.push_back(s.size);
    }
    ctx->save_for_backward(saved);
    ctx->saved_data["shape"] = std::vector<int64_t>{heads, kv_heads, window, sinks};
    ctx->saved_data["sizes"] = sizes;
    return {at::cat(outs, 1), at::cat(norms, 0)};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto shape = ctx->saved_data["shape"].toIntVector(), sizes = ctx->saved_data["sizes"].toIntVector();
    std::vector<Tensor> dq, dk, dv;
    for (size_t i = 0; 2 * i < sizes.size(); ++i) {
      const Tensor &qb = saved[5 * i], &kb = saved[5 * i + 1], &vb = saved[5 * i + 2], &p = saved[5 * i + 3], &out = saved[5 * i + 4];
      const at::ScalarType wide = out.scalar_type(), narrow = p.scalar_type();
      const Blocks b(shape[0], shape[1], shape[2], shape[3], sizes[2 * i + 1]);
      const double scale = 1.0 / std::sqrt(double(qb.size(2)));
      const Tensor dout = b.from_head(grads[0].narrow(1, sizes[2 * i], b.tokens));
      Tensor delta = (dout * out).sum(-1, true);
      if (grads[1].defined()) delta.sub_(b.from_head(grads[1].narrow(0, sizes[2 * i], b.tokens).t().unsqueeze(2)));
      const Tensor dlow = dout.to(narrow);
      Tensor ds = product(dlow, vb.transpose(1, 2)).to(wide).sub_(delta).mul_(p).mul_(scale);
      ds = ds.to(narrow);
      const Tensor dqb = product(ds, kb).to(wide);
      dq.push_back(b.by_head(dqb).transpose(0, 1).reshape({b.tokens, -1}));
      dk.push_back(b.keys_back(product(ds.transpose(1, 2), qb), wide));
      dv.push_back(b.keys_back(product(p.transpose(1, 2), dlow), wide));
    }
    return {at::cat(dq), at::cat(dk), at::cat(dv), Tensor(), Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

Tensor full_attention(const Tensor& q, const Tensor& k, const Tensor& v, int heads, int kv_heads, const std::vector<Sequence>& sequences,
                      Numeric numeric) {
  const at::ScalarType narrow = numeric == Numeric::kFast ? at::kBFloat16 : q.scalar_type();
  std::vector<Tensor> outs;
  for (const Sequence& s : sequences) {
    const auto split = [&](const Tensor& x, int n) {
      Tensor part = x.narrow(0, s.begin, s.size).to(narrow).reshape({s.size, n, -1}).transpose(0, 1);
      return (n < heads ? part.repeat_interleave(heads / n, 0) : part).unsqueeze(0);
    };
    const Tensor out = at::scaled_dot_product_attention(split(q, heads), split(k, kv_heads), split(v, kv_heads), {}, 0.0, true);
    outs.push_back(out.squeeze(0));
  }
  return at::cat(outs, 1).to(q.scalar_type());
}

}  // namespace

std::pair<Tensor, Tensor> attention(const Tensor& q, const Tensor& k, const Tensor& v, int heads, int kv_heads, const WindowConfig& window,
                                    const std::vector<Sequence>& sequences, Numeric numeric) {
  if (window.size == 0) return {full_attention(q, k, v, heads, kv_heads, sequences, numeric), {}};
  auto out = WindowAttention::apply(q, k, v, int64_t(heads), int64_t(kv_heads), int64_t(window.size), int64_t(window.sinks), sequences,
                                    numeric == Numeric::kFast);
  return {out[0], out[1]};
}

}  // namespace retort::train
