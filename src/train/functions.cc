#include "train/functions.h"

#include <atomic>
#include <cmath>
#include <ctime>

#include "base/cpu.h"
#include "train/feature_rows.h"

namespace retort::train {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

std::atomic<int64_t> gemm_nanoseconds{0};

// Processor time, not wall time: shares of it mean something on a busy machine too.
int64_t nanoseconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return int64_t(now.tv_sec) * 1000000000 + now.tv_nsec;
}

uint16_t* bits(const Tensor& t) { return static_cast<uint16_t*>(t.data_ptr()); }

// fn(first, count) over rows, on torch's threads.
template <class Fn>
void each_rows(int64_t rows, Fn&& fn) {
  at::parallel_for(0, rows, 64, [&](int64_t begin, int64_t end) { fn(begin, end - begin); });
}

bool given(const Tensor& t) { return t.numel() > 0; }

Tensor low_of(const Tensor& x, const Tensor& low) {
  if (given(low)) return low;
  return x.scalar_type() == at::kBFloat16 ? x : x.detach().to(at::kBFloat16);
}

Tensor to_f32(const Tensor& t) { return t.to(at::kFloat); }

struct LinearFunction : Function<LinearFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& low, const Tensor& w, const Tensor& b,
                        bool narrow) {
    const Tensor xl = low_of(x, low), wl = w.to(at::kBFloat16);
    ctx->save_for_backward({xl, wl});
    ctx->saved_data["x_type"] = static_cast<int64_t>(x.scalar_type());
    Tensor y = product(xl, wl.t());
    if (!narrow) y = to_f32(y);
    if (given(b)) y.add_(b);
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor dy = grads[0].to(at::kBFloat16);
    Tensor dx, dw, db;
    if (ctx->needs_input_grad(0)) dx = product(dy, saved[1]).to(static_cast<at::ScalarType>(ctx->saved_data["x_type"].toInt()));
    if (ctx->needs_input_grad(2)) dw = to_f32(product(dy.t(), saved[0]));
    if (ctx->needs_input_grad(3)) db = grads[0].sum(0);
    return {dx, Tensor(), dw, db, Tensor()};
  }
};

// A linear map with a feature map on top, per head.
struct HeadFeature : Function<HeadFeature> {
  static variable_list forward(AutogradContext* ctx, const Tensor& x, const Tensor& low, const Tensor& w, const Tensor& b, bool softmax) {
    const int64_t n = w.size(0), out = w.size(1), in = w.size(2), tokens = x.size(0);
    const Tensor xl = low_of(x, low).view({tokens, n, in}).transpose(0, 1).contiguous();
    const Tensor wl = w.to(at::kBFloat16);
    const Tensor z = product(xl, wl.transpose(1, 2)).contiguous();
    const Tensor bias = given(b) ? b.detach().contiguous() : Tensor();
    const Tensor y = at::empty({tokens, n * out}, at::kFloat), maximum = at::empty({tokens, softmax ? 0 : n}, at::kFloat);
    for (int64_t h = 0; h < n; ++h) {
      const float* row = bias.defined() ? bias.data_ptr<float>() + h * out : nullptr;
      const uint16_t* zh = bits(z) + h * tokens * out;
      float* yh = y.data_ptr<float>() + h * out;
      if (softmax) {
        rows::softmax_forward(zh, row, yh, n * out, tokens, out);
      } else {
        rows::exp_forward(zh, row, yh, n * out, maximum.data_ptr<float>() + h, n, tokens, out);
      }
    }
    ctx->save_for_backward({xl, wl, y});
    ctx->saved_data["softmax"] = softmax;
    ctx->mark_non_differentiable({maximum});
    return {y, maximum};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &xl = saved[0], &wl = saved[1], &y = saved[2];
    const bool softmax = ctx->saved_data["softmax"].toBool();
    const int64_t n = wl.size(0), tokens = y.size(0), out = wl.size(1);
    const Tensor dy = grads[0].contiguous();
    const Tensor dz = at::empty({n, tokens, out}, at::kBFloat16), db = at::zeros({n, out}, at::kFloat);
    for (int64_t h = 0; h < n; ++h) {
      const auto backward = softmax ? rows::softmax_backward : rows::exp_backward;
      backward(dy.data_ptr<float>() + h * out, y.data_ptr<float>() + h * out, n * out, bits(dz) + h * tokens * out,
               db.data_ptr<float>() + h * out, tokens, out);
    }
    Tensor dx, dw;
    if (ctx->needs_input_grad(0)) dx = to_f32(product(dz, wl).transpose(0, 1)).reshape({tokens, -1});
    if (ctx->needs_input_grad(2)) dw = to_f32(product(dz.transpose(1, 2), xl));
    return {dx, Tensor(), dw, ctx->needs_input_grad(3) ? db : Tensor(), Tensor()};
  }
};

struct SquareFunction : Function<SquareFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, int64_t heads) {
    const Tensor in = to_f32(x).contiguous();
    const int64_t f = in.size(1) / heads;
    const Tensor y = at::empty({in.size(0), heads * f * (f + 1) / 2}, at::kFloat);
    rows::square(in.data_ptr<float>(), y.data_ptr<float>(), in.size(0) * heads, f);
    ctx->save_for_backward({in});
    ctx->saved_data["heads"] = heads;
    ctx->saved_data["x_type"] = static_cast<int64_t>(x.scalar_type());
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const Tensor x = ctx->get_saved_variables()[0], dy = grads[0].contiguous(), dx = at::empty_like(x);
    const int64_t heads = ctx->saved_data["heads"].toInt();
    rows::square_backward(x.data_ptr<float>(), dy.data_ptr<float>(), dx.data_ptr<float>(), x.size(0) * heads, x.size(1) / heads);
    return {dx.to(static_cast<at::ScalarType>(ctx->saved_data["x_type"].toInt())), Tensor()};
  }
};

struct RopeFunction : Function<RopeFunction> {
  static Tensor turn(const Tensor& x, const Tensor& cosine, const Tensor& sine, int64_t heads, float direction) {
    const int64_t half = cosine.size(1);
    if (x.scalar_type() == at::kFloat) {
      const Tensor in = x.contiguous(), out = at::empty_like(in);
      rows::rope(in.data_ptr<float>(), out.data_ptr<float>(), cosine.data_ptr<float>(), sine.data_ptr<float>(), in.size(0), in.size(1),
                 static_cast<int>(heads), static_cast<int>(half), direction);
      return out;
    }
    const Tensor halves = x.reshape({x.size(0), heads, 2, half}), a = halves.select(2, 0), b = halves.select(2, 1);
    const Tensor c = cosine.unsqueeze(1), s = sine.unsqueeze(1) * direction;
    return at::stack({a * c - b * s, b * c + a * s}, 2).reshape(x.sizes());
  }
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& cosine, const Tensor& sine, int64_t heads) {
    ctx->save_for_backward({cosine, sine});
    ctx->saved_data["heads"] = heads;
    return turn(x, cosine, sine, heads, 1);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    return {turn(grads[0], saved[0], saved[1], ctx->saved_data["heads"].toInt(), -1), Tensor(), Tensor(), Tensor()};
  }
};

struct NormFunction : Function<NormFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& w, double eps) {
    const Tensor in = x.contiguous(), y = at::empty(in.sizes(), at::kBFloat16), inverse = at::empty({in.size(0)}, at::kFloat);
    rows::rms_norm(in.data_ptr<float>(), w.data_ptr<float>(), bits(y), inverse.data_ptr<float>(), in.size(0), in.size(1), float(eps));
    ctx->save_for_backward({in, w, inverse});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &w = saved[1];
    const Tensor dy = grads[0].to(at::kBFloat16).contiguous(), dx = at::empty_like(x);
    rows::rms_norm_backward(x.data_ptr<float>(), w.data_ptr<float>(), saved[2].data_ptr<float>(), bits(dy), dx.data_ptr<float>(),
                            x.size(0), x.size(1));
    return {dx, Tensor(), Tensor()};
  }
};

struct SwigluFunction : Function<SwigluFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& gate_up) {
    const Tensor gu = gate_up.to(at::kBFloat16).contiguous();
    const Tensor y = at::empty({gu.size(0), gu.size(1) / 2}, at::kBFloat16);
    each_rows(y.size(0), [&](int64_t r, int64_t n) { rows::swiglu(bits(gu) + r * gu.size(1), bits(y) + r * y.size(1), n, y.size(1)); });
    ctx->save_for_backward({gu});
    ctx->saved_data["type"] = static_cast<int64_t>(gate_up.scalar_type());
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const Tensor gu = ctx->get_saved_variables()[0];
    const Tensor dy = grads[0].to(at::kBFloat16).contiguous(), dgu = at::empty_like(gu);
    each_rows(dy.size(0), [&](int64_t r, int64_t n) {
      rows::swiglu_backward(bits(gu) + r * gu.size(1), bits(dy) + r * dy.size(1), bits(dgu) + r * gu.size(1), n, dy.size(1));
    });
    return {dgu.to(static_cast<at::ScalarType>(ctx->saved_data["type"].toInt()))};
  }
};

}  // namespace

double processor_seconds() { return double(nanoseconds(CLOCK_PROCESS_CPUTIME_ID)) * 1e-9; }
double take_gemm_seconds() { return double(gemm_nanoseconds.exchange(0)) * 1e-9; }

Tensor product(const Tensor& a, const Tensor& b) {
  const int64_t begin = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
  const auto multiplied = [](const Tensor& x, const Tensor& y) { return x.dim() == 2 ? at::mm(x, y) : at::bmm(x, y); };
  // Without an instruction for it LibTorch multiplies bf16 one dot product at a time. The same numbers in f32 give the same sums, up to
  // their order.
  const bool widened = a.scalar_type() == at::kBFloat16 && active_isa() != Isa::kAvx512 && active_isa() != Isa::kAmx;
  Tensor c = widened ? multiplied(a.to(at::kFloat), b.to(at::kFloat)).to(at::kBFloat16) : multiplied(a, b);
  gemm_nanoseconds += nanoseconds(CLOCK_THREAD_CPUTIME_ID) - begin;
  return c;
}

Tensor linear(const Tensor& x, const Tensor& low, const Tensor& w, const Tensor& b, Numeric numeric, bool narrow) {
  if (numeric == Numeric::kFast) return LinearFunction::apply(x, or_empty(low), w, or_empty(b), narrow);
  return b.defined() ? at::addmm(b, x, w.t()) : at::mm(x, w.t());
}

std::pair<Tensor, Tensor> head_linear(const Tensor& x, const Tensor& low, const Tensor& w, const Tensor& b, Feature feature,
                                      Numeric numeric) {
  if (numeric == Numeric::kFast && feature != Feature::kNone) {
    auto out = HeadFeature::apply(x, or_empty(low), w, or_empty(b), feature == Feature::kSoftmax);
    return {out[0], out[1]};
  }
  const int64_t n = w.size(0), tokens = x.size(0);
  Tensor z = at::bmm(x.view({tokens, n, -1}).transpose(0, 1), w.transpose(1, 2).to(x.scalar_type())).transpose(0, 1);  // [T, n, out]
  if (b.defined()) z = z + b;
  if (feature == Feature::kNone) return {z.reshape({tokens, -1}), {}};
  if (feature == Feature::kSoftmax) return {z.softmax(-1).reshape({tokens, -1}), {}};
  const Tensor maximum = z.detach().amax(-1);
  return {at::exp(z - maximum.unsqueeze(-1)).reshape({tokens, -1}), maximum};
}

Tensor square_heads(const Tensor& x, int heads, Numeric numeric) {
  if (numeric == Numeric::kFast) return SquareFunction::apply(x, static_cast<int64_t>(heads));
  const Tensor h = x.reshape({x.size(0), heads, -1}), pairs = at::triu_indices(h.size(2), h.size(2), 1);
  const Tensor products = h.index_select(2, pairs[0]) * h.index_select(2, pairs[1]) * std::sqrt(2.0);
  return at::cat({h.square(), products}, 2).reshape({x.size(0), -1});
}

RopeTable rope_table(const std::vector<Sequence>& sequences, const RopeConfig& config, int head_dim, at::ScalarType type) {
  const auto frequencies = config.frequencies(head_dim);
  std::vector<Tensor> positions;
  for (const Sequence& s : sequences) positions.push_back(at::arange(s.size, at::kDouble));
  const Tensor f = torch::tensor(frequencies, at::kDouble);
  const Tensor angle = at::cat(positions).unsqueeze(1) * f.unsqueeze(0);
  return {angle.cos().to(type).contiguous(), angle.sin().to(type).contiguous()};
}

Tensor rope(const Tensor& x, const RopeTable& table, int heads) {
  return RopeFunction::apply(x, table.cosine, table.sine, static_cast<int64_t>(heads));
}

Tensor rms_norm(const Tensor& x, const Tensor& w, double eps, Numeric numeric) {
  if (numeric == Numeric::kFast && !w.requires_grad()) return NormFunction::apply(x, w, eps);
  return x * at::rsqrt(x.square().mean(-1, true) + eps) * w;
}

Tensor swiglu(const Tensor& gate_up, Numeric numeric) {
  if (numeric == Numeric::kFast) return SwigluFunction::apply(gate_up);
  const auto halves = gate_up.chunk(2, 1);
  return at::silu(halves[0]) * halves[1];
}

}  // namespace retort::train
