// Norms per head, convolutions and shifts along the sequence, and slices of columns: what torch would take many passes for.
#include "train/feature_rows.h"
#include "train/functions.h"

namespace retort::train {
namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

float* data_or_null(const Tensor& t) { return t.defined() && t.numel() > 0 ? t.data_ptr<float>() : nullptr; }

std::vector<int64_t> runs_of(const std::vector<Sequence>& sequences) {
  std::vector<int64_t> runs;
  for (const Sequence& s : sequences) runs.insert(runs.end(), {s.begin, s.size});
  return runs;
}

struct HeadNormFunction : Function<HeadNormFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& w, int64_t heads, double eps) {
    const Tensor in = x.to(at::kFloat).contiguous(), y = at::empty_like(in), inverse = at::empty({in.size(0), heads}, at::kFloat);
    const int64_t d = in.size(1) / heads;
    rows::rms_norm_heads(in.data_ptr<float>(), data_or_null(w), stride(w, d), y.data_ptr<float>(), inverse.data_ptr<float>(), in.size(0),
                         heads, d, float(eps));
    ctx->save_for_backward({in, w, inverse});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &w = saved[1], &inverse = saved[2];
    const int64_t heads = inverse.size(1), d = x.size(1) / heads;
    const Tensor dy = grads[0].contiguous(), dx = at::empty_like(x);
    const Tensor dw = ctx->needs_input_grad(1) ? at::zeros_like(w) : Tensor();
    rows::rms_norm_heads_backward(x.data_ptr<float>(), data_or_null(w), stride(w, d), inverse.data_ptr<float>(), dy.data_ptr<float>(),
                                  dx.data_ptr<float>(), data_or_null(dw), x.size(0), heads, d);
    return {dx, dw, Tensor(), Tensor()};
  }

 private:
  static int64_t stride(const Tensor& w, int64_t d) { return w.numel() > d ? d : 0; }
};

struct ConvFunction : Function<ConvFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& w, const Tensor& b, const std::vector<Sequence>& sequences) {
    const Tensor f32 = x.to(at::kFloat), in = f32.stride(1) == 1 ? f32 : f32.contiguous(), taps = w.detach().t().contiguous();
    const Tensor y = at::empty({in.size(0), in.size(1)}, at::kFloat);
    for (const Sequence& s : sequences) {
      rows::short_conv(row(in, s.begin), in.stride(0), taps.data_ptr<float>(), data_or_null(b), row(y, s.begin), s.size, in.size(1), w.size(1));
    }
    ctx->save_for_backward({in, taps});
    ctx->saved_data["runs"] = runs_of(sequences);
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &taps = saved[1];
    const auto runs = ctx->saved_data["runs"].toIntVector();
    const Tensor dy = grads[0].contiguous(), dx = at::empty_like(dy), d_taps = at::zeros_like(taps);
    const Tensor db = ctx->needs_input_grad(2) ? at::zeros({x.size(1)}, at::kFloat) : Tensor();
    for (size_t i = 0; i < runs.size(); i += 2) {
      rows::short_conv_backward(row(x, runs[i]), x.stride(0), taps.data_ptr<float>(), row(dy, runs[i]), row(dx, runs[i]), d_taps.data_ptr<float>(),
                                data_or_null(db), runs[i + 1], x.size(1), taps.size(0));
    }
    return {dx, d_taps.t(), db, Tensor()};
  }

 private:
  static float* row(const Tensor& x, int64_t r) { return x.data_ptr<float>() + r * x.stride(0); }
};

struct EarlierFunction : Function<EarlierFunction> {
  // Rows move by `by` within their sequence, later ones for by > 0; zeros come in.
  static Tensor moved(const Tensor& x, int64_t by, const std::vector<int64_t>& runs) {
    const Tensor y = at::empty(x.sizes(), x.options());
    for (size_t i = 0; i < runs.size(); i += 2) {
      const int64_t begin = runs[i], size = runs[i + 1], empty = std::min(size, std::abs(by)), kept = size - empty;
      y.narrow(0, by > 0 ? begin : begin + kept, empty).zero_();
      if (kept > 0) y.narrow(0, by > 0 ? begin + empty : begin, kept).copy_(x.narrow(0, by > 0 ? begin : begin + empty, kept));
    }
    return y;
  }
  static Tensor forward(AutogradContext* ctx, const Tensor& x, int64_t back, const std::vector<Sequence>& sequences) {
    ctx->saved_data["back"] = back;
    ctx->saved_data["runs"] = runs_of(sequences);
    return moved(x, back, runs_of(sequences));
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    return {moved(grads[0], -ctx->saved_data["back"].toInt(), ctx->saved_data["runs"].toIntVector()), Tensor(), Tensor()};
  }
};

struct SharedGradient : torch::CustomClassHolder {
  Tensor sum;
};
SharedGradient& shared(AutogradContext* ctx) { return static_cast<SharedGradient&>(*ctx->saved_data["gradient"].toCapsule()); }

// The identity. Its slices have left their gradients in the buffer before it runs backwards.
struct SourceFunction : Function<SourceFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const c10::IValue& gradient) {
    ctx->saved_data["gradient"] = gradient;
    ctx->set_materialize_grads(false);
    return x.variable_data();
  }
  static variable_list backward(AutogradContext* ctx, variable_list) { return {std::move(shared(ctx).sum), Tensor()}; }
};

struct SliceFunction : Function<SliceFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, int64_t first, int64_t count, const c10::IValue& gradient) {
    ctx->saved_data["gradient"] = gradient;
    ctx->saved_data["sizes"] = std::vector<int64_t>{x.size(0), x.size(1), first, count};
    return x.variable_data().narrow(1, first, count);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto sizes = ctx->saved_data["sizes"].toIntVector();
    Tensor& sum = shared(ctx).sum;
    if (!sum.defined()) sum = at::zeros({sizes[0], sizes[1]}, grads[0].options());
    sum.narrow(1, sizes[2], sizes[3]).add_(grads[0]);
    return {Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor rms_norm_heads(const Tensor& x, const Tensor& w, int heads, double eps, Numeric numeric) {
  if (numeric == Numeric::kFast) return HeadNormFunction::apply(x, or_empty(w), static_cast<int64_t>(heads), eps);
  Tensor h = x.reshape({x.size(0), heads, -1});
  h = h * at::rsqrt(h.square().mean(-1, true) + eps);
  if (w.defined()) h = h * w.reshape({w.numel() / h.size(2), -1});
  return h.reshape(x.sizes());
}

Tensor short_conv(const Tensor& x, const Tensor& w, const Tensor& b, const std::vector<Sequence>& sequences, Numeric numeric) {
  if (numeric == Numeric::kFast) return ConvFunction::apply(x, w, or_empty(b), sequences);
  const int64_t taps = w.size(1);
  std::vector<Tensor> out;
  for (const Sequence& s : sequences) {
    const Tensor padded = at::constant_pad_nd(x.narrow(0, s.begin, s.size), {0, 0, taps - 1, 0});
    Tensor sum = padded.narrow(0, 0, s.size) * w.select(1, 0);
    for (int64_t i = 1; i < taps; ++i) sum = sum + padded.narrow(0, i, s.size) * w.select(1, i);
    out.push_back(sum);
  }
  const Tensor y = at::cat(out);
  return b.defined() ? y + b : y;
}

Tensor earlier(const Tensor& x, int64_t back, const std::vector<Sequence>& sequences) { return EarlierFunction::apply(x, back, sequences); }

Slices::Slices(const Tensor& source) : source_(source), gradient_(c10::IValue::make_capsule(c10::make_intrusive<SharedGradient>())) {
  shared_ = source.requires_grad() ? SourceFunction::apply(source, gradient_) : source;
}

Tensor Slices::columns(int64_t first, int64_t count) const {
  return shared_.requires_grad() ? SliceFunction::apply(shared_, first, count, gradient_) : shared_.narrow(1, first, count);
}

}  // namespace retort::train
