// Softmax attention: over the fused kernels, or as its formula.
#include <cmath>
#include <limits>

#include "kernels/window_attention.h"
#include "train/functions.h"

namespace retort::train {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

struct AttentionFunction : Function<AttentionFunction> {
  static variable_list forward(AutogradContext* ctx, const Tensor& q_in, const Tensor& k_in, const Tensor& v_in, int64_t heads,
                               int64_t kv_heads, int64_t window, int64_t sinks, const std::vector<Sequence>& sequences) {
    const Tensor q = q_in.contiguous(), k = k_in.contiguous(), v = v_in.contiguous();
    const KernelAttention spec = kernel_spec(q, v, heads, kv_heads, window, sinks);
    const Tensor out = at::empty({q.size(0), heads * spec.value_dim}, at::kFloat), norm = at::empty({q.size(0), heads}, at::kFloat);
    std::vector<int64_t> runs;
    for (const Sequence& s : sequences) {
      runs.insert(runs.end(), {s.begin, s.size});
      each_head(spec.kv_heads, [&](int g) {
        window_attention_forward(spec, g, s.size, at_row(q, s.begin), at_row(k, s.begin), at_row(v, s.begin), at_row(out, s.begin),
                                 at_row(norm, s.begin), Arithmetic::kFast);
      });
    }
    ctx->save_for_backward({q, k, v, out, norm});
    ctx->saved_data["shape"] = std::vector<int64_t>{heads, kv_heads, window, sinks};
    ctx->saved_data["runs"] = runs;
    return {out, norm};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &q = saved[0], &k = saved[1], &v = saved[2], &out = saved[3], &norm = saved[4];
    const auto shape = ctx->saved_data["shape"].toIntVector(), runs = ctx->saved_data["runs"].toIntVector();
    const KernelAttention spec = kernel_spec(q, v, shape[0], shape[1], shape[2], shape[3]);
    const Tensor dout = grads[0].contiguous(), dnorm = grads[1].contiguous();
    const Tensor dq = at::empty_like(q), dk = at::empty_like(k), dv = at::empty_like(v);
    for (size_t i = 0; i < runs.size(); i += 2) {
      const int64_t r = runs[i];
      each_head(spec.kv_heads, [&](int g) {
        window_attention_backward(spec, g, runs[i + 1], at_row(q, r), at_row(k, r), at_row(v, r), at_row(out, r), at_row(norm, r),
                                  at_row(dout, r), at_row(dnorm, r), at_row(dq, r), at_row(dk, r), at_row(dv, r), Arithmetic::kFast);
      });
    }
    return {dq, dk, dv, Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }

 private:
  static KernelAttention kernel_spec(const Tensor& q, const Tensor& v, int64_t heads, int64_t kv_heads, int64_t window, int64_t sinks) {
    return {int(heads), int(kv_heads), int(q.size(1) / heads), int(v.size(1) / kv_heads), window, sinks};
  }
};

}  // namespace

OutAndNorm attention_matrix(const Tensor& q, const Tensor& k, const WindowConfig& window) {
  const int64_t n = q.size(1);
  const Tensor t = at::arange(n).unsqueeze(1), s = at::arange(n).unsqueeze(0);
  Tensor seen = s.le(t);
  if (window.size > 0) seen = seen & (s.gt(t - window.size) | s.lt(window.sinks));
  const Tensor scores = (at::matmul(q, k.transpose(1, 2)) / std::sqrt(double(q.size(2))))
                            .masked_fill(seen.logical_not(), -std::numeric_limits<double>::infinity());
  return {scores.softmax(2), scores.logsumexp(2)};
}

OutAndNorm attention(const Tensor& q, const Tensor& k, const Tensor& v, int heads, int kv_heads, const WindowConfig& window,
                     const std::vector<Sequence>& sequences, Numeric numeric) {
  if (numeric == Numeric::kFast) {
    auto out = AttentionFunction::apply(q, k, v, int64_t(heads), int64_t(kv_heads), int64_t(window.size), int64_t(window.sinks), sequences);
    return {out[0], out[1]};
  }
  std::vector<Tensor> outs, norms;
  for (const Sequence& s : sequences) {
    const auto split = [&](const Tensor& x, int n) {
      return x.narrow(0, s.begin, s.size).reshape({s.size, n, -1}).transpose(0, 1).repeat_interleave(heads / n, 0);
    };
    const auto [weights, norm] = attention_matrix(split(q, heads), split(k, kv_heads), window);
    outs.push_back(at::bmm(weights, split(v, kv_heads)).transpose(0, 1).reshape({s.size, -1}));
    norms.push_back(norm.t());
  }
  return {at::cat(outs), at::cat(norms)};
}

}  // namespace retort::train
