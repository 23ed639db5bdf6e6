// The selective scan: over the fused kernel, or written out as plain differentiable operations.
#include "mixers/kernel_specs.h"
#include "train/functions.h"

namespace retort::train {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

ScanTokens<float> scan_tokens(const variable_list& in, int64_t row) {
  return {at_row(in[0], row), at_row(in[1], row), at_row(in[2], row), at_row(in[3], row)};
}

// rate: [G*K, V]
struct ScanFunction : Function<ScanFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& step, const Tensor& rate,
                        const KernelScan& spec, const std::vector<Sequence>& sequences) {
    const variable_list in = {q.contiguous(), k.contiguous(), v.contiguous(), step.contiguous(), rate.contiguous()};
    const Tensor out = at::empty({q.size(0), int64_t(spec.heads) * spec.value_dim}, at::kFloat);
    std::vector<int64_t> runs;
    for (const Sequence& s : sequences) {
      runs.insert(runs.end(), {s.begin, s.size});
      each_head(spec.kv_heads, [&](int g) {
        selective_scan_forward(spec, g, s.size, 0, scan_tokens(in, s.begin), at_row(in[4], 0), nullptr, at_row(out, s.begin));
      });
    }
    ctx->saved_data["spec"] = std::vector<int64_t>{spec.heads, spec.kv_heads, spec.key_dim, spec.value_dim, spec.first_position};
    ctx->saved_data["runs"] = runs;
    ctx->save_for_backward(in);
    return out;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto f = ctx->saved_data["spec"].toIntVector(), runs = ctx->saved_data["runs"].toIntVector();
    const KernelScan spec{int(f[0]), int(f[1]), int(f[2]), int(f[3]), f[4]};
    const Tensor dout = grads[0].contiguous();
    variable_list to;
    for (int i = 0; i < 4; ++i) to.push_back(at::empty_like(saved[i]));
    to.push_back(at::zeros_like(saved[4]));
    for (size_t i = 0; i < runs.size(); i += 2) {
      const int64_t r = runs[i];
      const ScanGradients<float> gradients{at_row(to[0], r), at_row(to[1], r), at_row(to[2], r), at_row(to[3], r), at_row(to[4], 0)};
      each_head(spec.kv_heads, [&](int g) {
        selective_scan_backward(spec, g, runs[i + 1], scan_tokens(saved, r), at_row(saved[4], 0), at_row(dout, r), gradients);
      });
    }
    to.resize(7);  // neither the sizes nor the sequences have a gradient
    return to;
  }
};

Tensor formula(const KernelScan& spec, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& step, const Tensor& rate,
               const Sequence& s) {
  const int64_t K = spec.key_dim, V = spec.value_dim, G = spec.kv_heads;
  const Tensor rates = rate.view({G, K, V});
  Tensor state = at::zeros({G, K, V}, v.options());
  std::vector<Tensor> out;
  for (int64_t t = s.begin; t < s.begin + s.size; ++t) {
    if (t - s.begin >= spec.first_position) {
      state = at::exp(rates * step[t].view({G, 1, V})) * state + k[t].view({G, K, 1}) * v[t].view({G, 1, V});
    }
    out.push_back(at::bmm(q[t].view({G, spec.group(), K}), state).view({-1}));
  }
  return at::stack(out);
}

}  // namespace

Tensor selective_scan(const RecurrenceSpec& spec, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& step,
                      const Tensor& decay_rate, const std::vector<Sequence>& sequences, Numeric numeric) {
  const int64_t K = spec.key_dim, V = spec.value_dim, G = spec.kv_heads;
  const KernelScan kernel = kernel_scan(spec);
  const Tensor rate = -at::exp(decay_rate).view({G, V, K}).transpose(1, 2).reshape({G * K, V});
  if (numeric == Numeric::kFast) return ScanFunction::apply(q, k, v, step, rate, kernel, sequences);
  std::vector<Tensor> out;
  for (const Sequence& s : sequences) out.push_back(formula(kernel, q, k, v, step, rate, s));
  return at::cat(out);
}

}  // namespace retort::train
