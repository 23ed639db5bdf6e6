// The recurrence without decay, in chunks: inside a chunk the causal product, between chunks the summed state.
#include "train/functions.h"

namespace retort::train {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

constexpr int64_t kChunk = 64;

// Rows [begin, begin + size) of x[T, c], padded to whole chunks. [chunks, kChunk, c]
Tensor chunks_of(const Tensor& x, const Sequence& s) {
  const int64_t padded = (s.size + kChunk - 1) / kChunk * kChunk;
  Tensor rows = x.narrow(0, s.begin, s.size);
  if (padded > s.size) rows = at::constant_pad_nd(rows, {0, 0, 0, padded - s.size});
  return rows.reshape({padded / kChunk, kChunk, x.size(1)});
}

// Sum over the chunks before (after, when reversed), the chunk itself left out.
Tensor other_chunks(const Tensor& x, bool reversed) {
  Tensor out = at::zeros_like(x);
  const int64_t n = x.size(0);
  for (int64_t i = 1; i < n; ++i) {
    const int64_t to = reversed ? n - 1 - i : i, from = reversed ? to + 1 : to - 1;
    Tensor sum = out.select(0, to);
    at::add_out(sum, out.select(0, from), x.select(0, from));
  }
  return out;
}

struct SumRecurrence : Function<SumRecurrence> {
  // Values and a column of ones of kv head g; zero where the token writes nothing. [chunks, kChunk, V + 1]
  static Tensor values(const Tensor& v, const Sequence& s, int64_t g, int64_t width, int64_t first, at::ScalarType type) {
    Tensor out = at::zeros({s.size, width + 1}, v.options().dtype(type));
    if (first < s.size) {
      Tensor written = out.narrow(0, first, s.size - first);
      written.narrow(1, 0, width).copy_(v.narrow(0, s.begin + first, s.size - first).narrow(1, g * width, width));
      written.narrow(1, width, 1).fill_(1);
    }
    return chunks_of(out, {0, s.size});
  }

  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v, int64_t width, int64_t first,
                               const std::vector<Sequence>& sequences) {
    const int64_t heads = q.size(0), kv_heads = k.size(0), group = heads / kv_heads, tokens = q.size(1);
    const at::ScalarType narrow = q.scalar_type(), wide = v.scalar_type();
    Tensor out = at::zeros({heads, tokens, width}, v.options()), norm = at::zeros({heads, tokens}, v.options());
    std::vector<int64_t> sizes;
    for (const Sequence& s : sequences) {
      sizes.insert(sizes.end(), {s.begin, s.size});
      if (s.size <= first) continue;
      for (int64_t g = 0; g < kv_heads; ++g) {
        const Tensor kc = chunks_of(k.select(0, g), s), vc = values(v, s, g, width, first, narrow);
        const Tensor state = other_chunks(product(kc.transpose(1, 2), vc).to(wide), false).to(narrow);
        for (int64_t h = g * group; h < (g + 1) * group; ++h) {
          const Tensor qc = chunks_of(q.select(0, h), s);
          const Tensor a = product(qc, kc.transpose(1, 2)).tril_();
          const Tensor y = (product(a, vc).to(wide) + product(qc, state)).view({-1, width + 1}).narrow(0, 0, s.size);
          out.select(0, h).narrow(0, s.begin, s.size).copy_(y.narrow(1, 0, width));
          norm.select(0, h).narrow(0, s.begin, s.size).copy_(y.select(1, width));
        }
      }
    }
    const Tensor written = norm.gt(kLeastNorm);
    out.div_(norm.masked_fill(written.logical_not(), INFINITY).unsqueeze(2));
    ctx->save_for_backward({q, k, v, out, norm});
    ctx->saved_data["sizes"] = sizes;
    ctx->saved_data["first"] = first;
    return {out, norm.log().masked_fill_(written.logical_not(), kNothingWritten).t()};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3], &norm = saved[4];
    const auto sizes = ctx->saved_data["sizes"].toIntVector();
    const int64_t first = ctx->saved_data["first"].toInt(), width = out.size(2);
    const int64_t heads = q.size(0), kv_heads = k.size(0), group = heads / kv_heads;
    const at::ScalarType narrow = q.scalar_type(), wide = v.scalar_type();
    // Of numerator and normaliser together. [H, T, V + 1]
    const Tensor inverse = norm.masked_fill(norm.gt(kLeastNorm).logical_not(), INFINITY).reciprocal_().unsqueeze(2);
    Tensor dlog = (grads[0] * out).sum(-1, true).neg_();
    if (grads[1].defined()) dlog.add_(grads[1].t().unsqueeze(2));
    const Tensor dn = at::cat({grads[0] * inverse, dlog * inverse}, 2).to(narrow);
    Tensor dq = at::zeros_like(q), dk = at::zeros_like(k), dv = at::zeros_like(v);
    for (size_t i = 0; 2 * i < sizes.size(); ++i) {
      const Sequence s{sizes[2 * i], sizes[2 * i + 1]};
      if (s.size <= first) continue;
      for (int64_t g = 0; g < kv_heads; ++g) {
        const Tensor kc = chunks_of(k.select(0, g), s), vc = values(v, s, g, width, first, narrow);
        const Tensor state = other_chunks(product(kc.transpose(1, 2), vc).to(wide), false).to(narrow);
        Tensor dkc = at::zeros(kc.sizes(), v.options()), dvc = at::zeros(vc.sizes(), v.options()), dstate;
        for (int64_t h = g * group; h < (g + 1) * group; ++h) {
          const Tensor qc = chunks_of(q.select(0, h), s), dc = chunks_of(dn.select(0, h), s);
          const Tensor a = product(qc, kc.transpose(1, 2)).tril_(), da = product(dc, vc.transpose(1, 2)).tril_();
          const Tensor dqc = product(da, kc).add_(product(dc, state.transpose(1, 2)));
          dq.select(0, h).narrow(0, s.begin, s.size).copy_(dqc.view({-1, dqc.size(2)}).narrow(0, 0, s.size));
          dkc.add_(product(da.transpose(1, 2), qc));
          dvc.add_(product(a.transpose(1, 2), dc));
          const Tensor u = product(qc.transpose(1, 2), dc).to(wide);
          dstate = dstate.defined() ? dstate.add_(u) : u;
        }
        const Tensor later = other_chunks(dstate, true).to(narrow);
        dkc.add_(product(vc, later.transpose(1, 2)));
        dvc.add_(product(kc, later));
        dk.select(0, g).narrow(0, s.begin, s.size).copy_(dkc.view({-1, dkc.size(2)}).narrow(0, 0, s.size));
        dv.narrow(0, s.begin + first, s.size - first).narrow(1, g * width, width)
            .copy_(dvc.view({-1, width + 1}).narrow(0, first, s.size - first).narrow(1, 0, width));
      }
    }
    return {dq, dk, dv, Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

std::pair<Tensor, Tensor> sum_recurrence(const Tensor& q, const Tensor& k, const Tensor& v, int value_dim, int first_position,
                                         const std::vector<Sequence>& sequences) {
  auto out = SumRecurrence::apply(q, k, v, int64_t(value_dim), int64_t(first_position), sequences);
  return {out[0], out[1]};
}

}  // namespace retort::train
