// Rank-one transitions and the delta rule: over the fused kernels, or written out in chunks of plain differentiable operations.
#include <limits>

#include "mixers/kernel_specs.h"
#include "train/functions.h"

namespace retort::train {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

// q, k, v, log_decay, erase, erase_key; an empty one is absent.
RankOneTokens<float> rank_one_tokens(const variable_list& in, int64_t row) {
  return {at_row(in[0], row), at_row(in[1], row), at_row(in[2], row), at_row(in[3], row), at_row(in[4], row), at_row(in[5], row)};
}

struct RankOneFunction : Function<RankOneFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& log_decay,
                               const Tensor& erase, const Tensor& erase_key, const RecurrenceSpec& spec, const std::vector<Sequence>& sequences) {
    const variable_list in = {q.contiguous(), k.contiguous(), v.contiguous(), log_decay.contiguous(), erase.contiguous(), erase_key.contiguous()};
    const KernelRankOne kernel = kernel_rank_one(spec);
    const Tensor out = at::empty({q.size(0), int64_t(spec.heads) * spec.value_dim}, at::kFloat);
    std::vector<int64_t> runs;
    for (const Sequence& s : sequences) {
      runs.insert(runs.end(), {s.begin, s.size});
      each_head(spec.kv_heads, [&](int g) {
        rank_one_forward(kernel, g, s.size, 0, rank_one_tokens(in, s.begin), nullptr, at_row(out, s.begin), Arithmetic::kFast);
      });
    }
    ctx->saved_data["spec"] = std::vector<int64_t>{int64_t(spec.decay), int64_t(spec.transition), spec.heads, spec.kv_heads,
                                                   spec.key_dim, spec.value_dim, spec.first_position};
    ctx->saved_data["runs"] = runs;
    ctx->save_for_backward(in);
    return {out};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto f = ctx->saved_data["spec"].toIntVector(), runs = ctx->saved_data["runs"].toIntVector();
    RecurrenceSpec spec{Decay(f[0]), int(f[2]), int(f[3]), int(f[4]), int(f[5])};
    spec.transition = Transition(f[1]), spec.first_position = int(f[6]);
    const KernelRankOne kernel = kernel_rank_one(spec);
    const Tensor dout = grads[0].contiguous();
    variable_list d;
    for (const Tensor& x : saved) d.push_back(at::empty_like(x));
    for (size_t i = 0; i < runs.size(); i += 2) {
      const int64_t r = runs[i];
      const RankOneGradients<float> to{at_row(d[0], r), at_row(d[1], r), at_row(d[2], r), at_row(d[3], r), at_row(d[4], r), at_row(d[5], r)};
      each_head(kernel.kv_heads, [&](int g) {
        rank_one_backward(kernel, g, runs[i + 1], rank_one_tokens(saved, r), at_row(dout, r), to, Arithmetic::kFast);
      });
    }
    const auto of = [&](size_t i) { return saved[i].numel() ? d[i] : Tensor(); };
    return {d[0], d[1], d[2], of(3), d[4], of(5), Tensor(), Tensor()};
  }
};

// sum_d x[t, d] y[s, d] exp(after[t, d] - sum[s, d]) for s <= t - back, else 0. x[G, n, c, K], the rest [G, c, ..] -> [G, n, c, c].
Tensor scores(const Tensor& x, const Tensor& y, const Tensor& after, const Tensor& sum, int64_t back) {
  const int64_t c = y.size(1);
  const Tensor future = at::ones({c, c}, at::kBool).triu(1 - back).view({1, c, c, 1});
  const Tensor kept = (after.unsqueeze(2) - sum.unsqueeze(1)).masked_fill(future, -std::numeric_limits<double>::infinity()).exp();
  if (sum.size(2) == 1) return at::matmul(x, y.unsqueeze(1).transpose(2, 3)) * kept.squeeze(3).unsqueeze(1);
  return at::einsum("gntk,gsk,gtsk->gnts", {x, y, kept});
}

// One sequence: q[H, n, K] k, a, b[G, n, K] v[G, n, V] l[G, n, 1 or K] -> [H, n, V]. The chunks of kernels/rank_one_impl.h.
Tensor erasing(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& a, const Tensor& b, const Tensor& l, bool delta) {
  const int64_t heads = q.size(0), kv_heads = k.size(0), n = q.size(1), keys = k.size(2), chunk = l.size(2) == 1 ? 64 : 16;
  const Tensor qg = q.reshape({kv_heads, heads / kv_heads, n, keys});
  Tensor state = at::zeros({kv_heads, keys, v.size(2)}, v.options());
  std::vector<Tensor> out;
  for (int64_t begin = 0; begin < n; begin += chunk) {
    const int64_t c = std::min(chunk, n - begin);
    const auto rows = [&](const Tensor& x) { return x.narrow(1, begin, c); };
    const Tensor qc = qg.narrow(2, begin, c), kc = rows(k), vc = rows(v), ac = rows(a), bc = rows(b);
    const Tensor sum = rows(l).cumsum(1);  // [G, c, 1 or K]
    const Tensor before = at::cat({at::zeros_like(sum.narrow(1, 0, 1)), sum.narrow(1, 0, c - 1)}, 1);
    const auto erased = [&](const Tensor& y) { return scores(ac.unsqueeze(1), y, before, sum, 1).squeeze(1); };
    const Tensor from_state = at::bmm(ac * before.exp(), state);
    const Tensor known = from_state + (delta ? vc : at::bmm(erased(kc), vc));
    const Tensor found = at::linalg_solve_triangular(-erased(bc), known, false, true, true);  // (I - A)^-1: its diagonal is taken as 1
    Tensor y = at::matmul(qc * sum.exp().unsqueeze(1), state.unsqueeze(1)) + at::matmul(scores(qc, bc, sum, sum, 0), found.unsqueeze(1));
    if (!delta) y = y + at::matmul(scores(qc, kc, sum, sum, 0), vc.unsqueeze(1));
    out.push_back(y);
    const Tensor last = sum.narrow(1, c - 1, 1), kept = (last - sum).exp();
    state = last.exp().transpose(1, 2) * state + at::bmm((bc * kept).transpose(1, 2), found);
    if (!delta) state = state + at::bmm((kc * kept).transpose(1, 2), vc);
  }
  return at::cat(out, 2).reshape({heads, n, v.size(2)});
}

}  // namespace

Tensor rank_one(const RecurrenceSpec& spec, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& log_decay,
                const Tensor& erase, const Tensor& erase_key, const std::vector<Sequence>& sequences, Numeric numeric) {
  if (numeric == Numeric::kFast) {
    const Tensor absent = at::empty({0, 0}, at::kFloat);
    const auto or_absent = [&](const Tensor& x) { return x.defined() ? x : absent; };
    return RankOneFunction::apply(q, k, v, or_absent(log_decay), erase, or_absent(erase_key), spec, sequences)[0];
  }
  const bool delta = spec.transition == Transition::kDelta;
  std::vector<Tensor> out;
  for (const Sequence& s : sequences) {
    const auto split = [&](const Tensor& x, int n) { return x.narrow(0, s.begin, s.size).reshape({s.size, n, -1}).transpose(0, 1); };
    const int G = spec.kv_heads;
    const Tensor writes = at::arange(s.size).ge(spec.first_position).to(v.scalar_type()).view({1, s.size, 1});
    const Tensor l = spec.decay == Decay::kNone ? at::zeros({G, s.size, 1}, v.options()) : split(log_decay, G) * writes;
    const Tensor keys = split(k, G) * writes, erase_keys = delta ? keys : split(erase_key, G) * writes;
    out.push_back(erasing(split(q, spec.heads), keys, split(v, G), split(erase, G), erase_keys, l, delta).transpose(0, 1).reshape({s.size, -1}));
  }
  return at::cat(out);
}

}  // namespace retort::train
