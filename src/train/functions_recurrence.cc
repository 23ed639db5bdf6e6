// The recurrence: over the fused kernels, or written out in chunks of plain differentiable operations.
#include <limits>

#include "mixers/kernel_specs.h"
#include "train/functions.h"

namespace retort::train {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

RecurrenceTokens<float> recurrence_tokens(const variable_list& in, int64_t row) {
  return {at_row(in[0], row), at_row(in[1], row), at_row(in[2], row), at_row(in[3], row), at_row(in[4], row)};
}

// An empty log_decay or offset stands for "absent".
struct RecurrenceFunction : Function<RecurrenceFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& log_decay,
                               const Tensor& offset, const RecurrenceSpec& spec, const std::vector<Sequence>& sequences) {
    variable_list in = {q.contiguous(), k.contiguous(), v.contiguous(), log_decay.contiguous(), offset.contiguous()};
    const KernelRecurrence kernel = kernel_recurrence(spec);
    const Tensor out = at::empty({q.size(0), int64_t(spec.heads) * spec.value_dim}, at::kFloat);
    const Tensor norm = at::empty({q.size(0), spec.joins() ? spec.heads : 0}, at::kFloat);
    std::vector<int64_t> runs;
    for (const Sequence& s : sequences) {
      runs.insert(runs.end(), {s.begin, s.size});
      each_head(spec.kv_heads, [&](int g) {
        recurrence_forward(kernel, g, s.size, 0, recurrence_tokens(in, s.begin), nullptr, at_row(out, s.begin), at_row(norm, s.begin), Arithmetic::kFast);
      });
    }
    ctx->saved_data["spec"] = std::vector<int64_t>{int64_t(spec.decay), spec.heads, spec.kv_heads, spec.key_dim, spec.value_dim,
                                                   int64_t(spec.normaliser), spec.first_position};
    ctx->saved_data["norm_eps"] = spec.norm_eps;
    ctx->saved_data["runs"] = runs;
    in.push_back(out);
    ctx->save_for_backward(in);
    return {out, norm};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto f = ctx->saved_data["spec"].toIntVector(), runs = ctx->saved_data["runs"].toIntVector();
    RecurrenceSpec spec{Decay(f[0]), int(f[1]), int(f[2]), int(f[3]), int(f[4]), Normaliser(f[5]), ctx->saved_data["norm_eps"].toDouble()};
    spec.first_position = int(f[6]);
    const KernelRecurrence kernel = kernel_recurrence(spec);
    const Tensor dout = grads[0].contiguous(), dnorm = grads[1].contiguous();
    const Tensor dq = at::empty_like(saved[0]), dk = at::empty_like(saved[1]), dv = at::empty_like(saved[2]), dl = at::empty_like(saved[3]);
    for (size_t i = 0; i < runs.size(); i += 2) {
      const int64_t r = runs[i];
      const RecurrenceGradients<float> gradients{at_row(dq, r), at_row(dk, r), at_row(dv, r), at_row(dl, r), nullptr};
      each_head(kernel.kv_heads, [&](int g) {
        recurrence_backward(kernel, g, runs[i + 1], recurrence_tokens(saved, r), at_row(saved[5], r), at_row(dout, r), at_row(dnorm, r), gradients,
                            Arithmetic::kFast);
      });
    }
    return {dq, dk, dv, kernel.decay == KernelDecay::kNone ? Tensor() : dl, Tensor(), Tensor(), Tensor()};
  }
};

// One sequence: q[H, n, K] k[G, n, K] v[G, n, V] l[G, n, 1 or K] -> [H, n, V].
Tensor decaying(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& l) {
  const int64_t heads = q.size(0), kv_heads = k.size(0), n = q.size(1), keys = k.size(2);
  const bool scalar = l.size(2) == 1;
  const int64_t chunk = scalar ? 64 : 16;
  const Tensor qg = q.reshape({kv_heads, heads / kv_heads, n, keys});
  Tensor state = at::zeros({kv_heads, keys, v.size(2)}, v.options());
  std::vector<Tensor> out;
  for (int64_t begin = 0; begin < n; begin += chunk) {
    const int64_t c = std::min(chunk, n - begin);
    const Tensor qc = qg.narrow(2, begin, c), kc = k.narrow(1, begin, c), vc = v.narrow(1, begin, c);
    const Tensor sum = l.narrow(1, begin, c).cumsum(1);  // [G, c, 1 or K]
    const Tensor future = at::ones({c, c}, at::kBool).triu(1).view({1, c, c, 1});
    const Tensor kept = (sum.unsqueeze(2) - sum.unsqueeze(1)).masked_fill(future, -std::numeric_limits<double>::infinity()).exp();
    const Tensor a = scalar ? at::matmul(qc, kc.unsqueeze(1).transpose(2, 3)) * kept.squeeze(3).unsqueeze(1)
                            : at::einsum("gntk,gsk,gtsk->gnts", {qc, kc, kept});
    const Tensor from_state = at::matmul(qc * sum.exp().unsqueeze(1), state.unsqueeze(1));
    out.push_back(at::matmul(a, vc.unsqueeze(1)) + from_state);
    const Tensor last = sum.narrow(1, c - 1, 1);
    state = last.exp().transpose(1, 2) * state + at::bmm((kc * (last - sum).exp()).transpose(1, 2), vc);
  }
  return at::cat(out, 2).reshape({heads, n, v.size(2)});
}

OutAndNorm formula(const RecurrenceSpec& spec, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& log_decay,
                   const Sequence& s) {
  const auto split = [&](const Tensor& x, int n) { return x.narrow(0, s.begin, s.size).reshape({s.size, n, -1}).transpose(0, 1); };
  const Tensor writes = at::arange(s.size).ge(spec.first_position).to(v.scalar_type()).view({1, s.size, 1});
  const Tensor l = spec.decay == Decay::kNone ? at::zeros({spec.kv_heads, s.size, 1}, v.options()) : split(log_decay, spec.kv_heads) * writes;
  Tensor values = split(v, spec.kv_heads);
  if (spec.normaliser != Normaliser::kNone) values = at::cat({values, at::ones({spec.kv_heads, s.size, 1}, v.options())}, 2);
  const Tensor y = decaying(split(q, spec.heads), split(k, spec.kv_heads) * writes, values, l).transpose(0, 1);  // [n, H, V (+ 1)]
  if (spec.normaliser == Normaliser::kNone) return {y.reshape({s.size, -1}), {}};
  const Tensor n = y.narrow(2, 0, spec.value_dim), z = y.select(2, spec.value_dim);
  if (spec.normaliser == Normaliser::kAtLeastOne) return {(n / z.abs().clamp_min(1).unsqueeze(2)).reshape({s.size, -1}), {}};
  const Tensor nothing = z.le(kLeastNorm), safe = (z + spec.norm_eps).masked_fill(nothing, 1);
  const Tensor out = (n / safe.unsqueeze(2)).masked_fill(nothing.unsqueeze(2), 0);
  return {out.reshape({s.size, -1}), safe.log().masked_fill(nothing, kNothingWritten)};
}

}  // namespace

OutAndNorm recurrence(const RecurrenceSpec& spec, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& log_decay,
                      const Tensor& offset, const std::vector<Sequence>& sequences, Numeric numeric) {
  if (numeric == Numeric::kFast) {
    const Tensor absent = at::empty({0, 0}, at::kFloat);
    auto out = RecurrenceFunction::apply(q, k, v, log_decay.defined() ? log_decay : absent, offset.defined() ? offset.detach() : absent, spec,
                                         sequences);
    return {out[0], spec.joins() ? out[1] : Tensor()};
  }
  std::vector<Tensor> outs, norms;
  for (const Sequence& s : sequences) {
    auto [out, norm] = formula(spec, q, k, v, log_decay, s);
    outs.push_back(out);
    if (spec.joins()) norms.push_back(norm);
  }
  Tensor norm = spec.joins() ? at::cat(norms) : Tensor();
  if (norm.defined() && offset.defined()) norm = at::where(norm.eq(kNothingWritten), norm, norm + offset.detach());
  return {at::cat(outs), norm};
}

}  // namespace retort::train
