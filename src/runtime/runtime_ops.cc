#include "runtime/runtime_ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace retort {
RuntimeOps::RuntimeOps(ThreadPool& pool, Arena& arena, OpsScratch& scratch, std::span<const RowSegment> segments,
                       int64_t rows)
    : pool_(pool), arena_(arena), scratch_(scratch), kernels_(elementwise()), segments_(segments), rows_(rows) {
  scratch_.prompts.clear();
  for (const RowSegment& s : segments_) {
    if (!s.trial && s.count >= kPromptRows) scratch_.prompts.push_back({s.first, s.first + s.count});
  }
}

void RuntimeOps::begin_layer(Tensor input, std::span<const Weight> fused) {
  input_ = input;
  fused_ = fused;
  fused_count_ = 0;
}

void RuntimeOps::begin_part(const PartShape& shape, int first_slot) {
  shape_ = &shape;
  slot_ = first_slot;
}

using Tensor = RuntimeOps::Tensor;

Tensor RuntimeOps::allocate(int columns) { return {arena_.floats(rows_ * columns), columns, columns}; }

void RuntimeOps::multiply(Tensor x, std::span<const Weight> weights, const MatmulJob* jobs) {
  report_inputs(weights, x);
  scratch_.activations.set(x.data, rows_, x.columns, x.stride, scratch_.prompts);
  matmul(pool_, scratch_.activations, std::span(jobs, weights.size()));
}

void RuntimeOps::linear_group(Tensor x, std::span<const Weight> weights, Tensor* outputs) {
  MatmulJob jobs[kMostFused];
  for (size_t i = 0; i < weights.size(); ++i) {
    const PackedMatrix& w = weights[i]->matrices.front();
    outputs[i] = allocate(int(w.rows()));
    jobs[i] = {.w = &w, .y = outputs[i].data, .y_stride = outputs[i].stride, .bf16_activations = bf16_activations_};
  }
  if (rows_ == 0) return;
  multiply(x, weights, jobs);
}

Tensor RuntimeOps::linear_gated(Tensor x, Weight w) {
  const PackedMatrix& matrix = w->matrices.front();
  const Tensor out = allocate(int(w->shape[0] / 2));
  const MatmulJob job{.w = &matrix, .y = out.data, .y_stride = out.stride, .epilogue = Epilogue::kSiluPairs, .outputs = out.columns,
                      .bf16_activations = bf16_activations_};
  multiply(x, {&w, 1}, &job);
  return out;
}

void RuntimeOps::linear_add(Tensor x, Weight w, Tensor sum) {
  const MatmulJob job{.w = &w->matrices.front(), .y = sum.data, .y_stride = sum.stride, .epilogue = Epilogue::kAdd,
                      .bf16_activations = bf16_activations_};
  multiply(x, {&w, 1}, &job);
}

Tensor RuntimeOps::linear(Tensor x, Weight w, Weight bias) {
  Tensor out;
  if (trace_ && x.data == input_.data && trace_->size() < kMostFused) trace_->push_back(w);
  if (x.data == input_.data && !fused_.empty()) {
    if (fused_count_ == 0) {
      linear_group(x, fused_, fused_outputs_);
      fused_count_ = fused_.size();
    }
    for (size_t i = 0; i < fused_count_; ++i) {
      if (fused_[i] == w) out = fused_outputs_[i];
    }
  }
  if (!out) linear_group(x, {&w, 1}, &out);
  return bias ? add_row(out, bias) : out;
}

// One section for all heads: inside it a product runs on the thread that claimed the head.
Tensor RuntimeOps::head_linear(Tensor x, Weight w, Weight bias, int heads) {
  const int in = x.columns / heads, out_columns = int(w->matrices.front().rows());
  const Tensor out = allocate(heads * out_columns);
  if (rows_ == 0) return out;
  report_inputs({&w, 1}, x);
  if (int(scratch_.head_activations.size()) < heads) scratch_.head_activations.resize(size_t(heads));
  pool_.run_chunks(heads, [&](int64_t h) {
    Activations& activations = scratch_.head_activations[size_t(h)];
    activations.set(x.data + h * in, rows_, in, x.stride, scratch_.prompts);
    const int64_t own = w->matrices.size() == 1 ? 0 : h;  // the only one is shared by all heads
    MatmulJob job{.w = &w->matrices[size_t(own)], .y = out.data + h * out_columns, .y_stride = out.stride, .bf16_activations = bf16_activations_};
    if (bias) job.bias = bias->values.data() + own * out_columns;
    matmul(pool_, activations, job);
  });
  return out;
}

void RuntimeOps::set_rope(std::span<const double> frequencies) {
  const int half = int(frequencies.size());
  angles_ = allocate(2 * half);
  for (const RowSegment& s : segments_) {
    for (int64_t t = 0; t < s.count; ++t) {
      float* row = angles_.row(s.first + t);
      rope_angles(frequencies.data(), half, s.sequence->position() + t, row, row + half);
    }
  }
}

Tensor RuntimeOps::rope(Tensor x, int heads) {
  return map_rows(x, [&](const float* in, float* out, int64_t r) {
    std::memcpy(out, in, x.columns * sizeof(float));
    kernels_.rope(out, heads, x.columns / heads, angles_.row(r), angles_.row(r) + angles_.columns / 2);
  });
}

Tensor RuntimeOps::rms_norm_heads(Tensor x, Weight w, int heads, double eps) {
  const int d = x.columns / heads;
  const float* weight = w ? w->values.data() : nullptr;
  const bool shared = w && int(w->values.size()) == d;
  return map_rows(x, [&](const float* in, float* out, int64_t) {
    for (int h = 0; h < heads; ++h) {
      kernels_.rms_norm(in + h * d, weight && !shared ? weight + h * d : weight, float(eps), d, out + h * d);
    }
  });
}

Tensor RuntimeOps::softmax_heads(Tensor x, int heads) {
  return map_heads(x, heads, x.columns / heads, [&](const float* in, float* out, int d) { kernels_.softmax(in, d, out); });
}
Tensor RuntimeOps::center_heads(Tensor x, int heads) {
  return map_heads(x, heads, x.columns / heads, [&](const float* in, float* out, int d) { kernels_.center(in, d, out); });
}
Tensor RuntimeOps::mirror_heads(Tensor x, int heads) {
  return map_heads(x, heads, 2 * x.columns / heads, [&](const float* in, float* out, int d) {
    std::memcpy(out, in, size_t(d) * sizeof(float));
    kernels_.scale(in, -1.0f, d, out + d);
  });
}
Tensor RuntimeOps::square_heads(Tensor x, int heads) {
  const int f = x.columns / heads;
  return map_heads(x, heads, f * (f + 1) / 2, [&](const float* in, float* out, int) {
    kernels_.mul(in, in, f, out);
    out += f;
    for (int i = 0; i + 1 < f; out += f - ++i) kernels_.scale(in + i + 1, float(M_SQRT2) * in[i], f - i - 1, out);
  });
}
Tensor RuntimeOps::repeat_heads(Tensor x, int heads, int times) {
  return map_heads(x, heads, x.columns / heads * times, [&](const float* in, float* out, int d) {
    for (int i = 0; i < times; ++i) std::memcpy(out + i * d, in, size_t(d) * sizeof(float));
  });
}
Tensor RuntimeOps::dot_heads(Tensor a, Tensor b, int heads) {
  const int d = a.columns / heads;
  const Tensor out = allocate(heads);
  each_row(a.columns, [&](int64_t r) {
    for (int h = 0; h < heads; ++h) out.row(r)[h] = kernels_.dot(a.row(r) + h * d, b.row(r) + h * d, d);
  });
  return out;
}

RuntimeOps::Pair RuntimeOps::exp_heads(Tensor x, int heads) {
  const int d = x.columns / heads;
  const Tensor maximum = allocate(heads);
  const Tensor out = map_rows(x, [&](const float* in, float* out, int64_t r) {
    for (int h = 0; h < heads; ++h) maximum.row(r)[h] = kernels_.exp_minus_max(in + h * d, d, out + h * d);
  });
  return {out, maximum};
}

Tensor RuntimeOps::sigmoid(Tensor x) {
  return map_rows(x, [&](const float* in, float* out, int64_t) { kernels_.sigmoid(in, x.columns, out); });
}
Tensor RuntimeOps::log_sigmoid(Tensor x) {
  return map_rows(x, [&](const float* in, float* out, int64_t) { kernels_.log_sigmoid(in, x.columns, out); });
}
Tensor RuntimeOps::silu(Tensor x) {
  return map_rows(x, [&](const float* in, float* out, int64_t) { kernels_.silu(in, x.columns, out); });
}
Tensor RuntimeOps::tanh(Tensor x) {
  return map_rows(x, [&](const float* in, float* out, int64_t) { kernels_.tanh(in, x.columns, out); });
}
Tensor RuntimeOps::exp(Tensor x) {
  return map_rows(x, [&](const float* in, float* out, int64_t) { kernels_.exp(in, x.columns, out); });
}
Tensor RuntimeOps::one_minus_exp(Tensor x) {
  return map_rows(x, [&](const float* in, float* out, int64_t) { kernels_.one_minus_exp(in, x.columns, out); });
}
Tensor RuntimeOps::scale(Tensor x, double c) {
  return map_rows(x, [&](const float* in, float* out, int64_t) { kernels_.scale(in, float(c), x.columns, out); });
}
Tensor RuntimeOps::add_row(Tensor x, Weight v) {
  return map_rows(x, [&](const float* in, float* out, int64_t) { kernels_.add(in, v->values.data(), x.columns, out); });
}
Tensor RuntimeOps::mul_row(Tensor x, Weight v) {
  return map_rows(x, [&](const float* in, float* out, int64_t) { kernels_.mul(in, v->values.data(), x.columns, out); });
}
Tensor RuntimeOps::mul_exp_row(Tensor x, Weight v) {
  float* factors = arena_.floats(x.columns);
  kernels_.exp(v->values.data(), x.columns, factors);
  return map_rows(x, [&](const float* in, float* out, int64_t) { kernels_.mul(in, factors, x.columns, out); });
}
Tensor RuntimeOps::same_row(Tensor, const std::vector<double>& values) {
  const Tensor out = allocate(int(values.size()));
  each_row(out.columns, [&](int64_t r) { std::copy(values.begin(), values.end(), out.row(r)); });
  return out;
}
Tensor RuntimeOps::add(Tensor a, Tensor b) {
  return map_rows(a, [&](const float* in, float* out, int64_t r) { kernels_.add(in, b.row(r), a.columns, out); });
}
Tensor RuntimeOps::mul(Tensor a, Tensor b) {
  return map_rows(a, [&](const float* in, float* out, int64_t r) { kernels_.mul(in, b.row(r), a.columns, out); });
}
Tensor RuntimeOps::mul_heads(Tensor x, Tensor g, int heads) {
  const int d = x.columns / heads;
  return map_rows(x, [&](const float* in, float* out, int64_t r) {
    for (int h = 0; h < heads; ++h) kernels_.scale(in + h * d, g.row(r)[h], d, out + h * d);
  });
}

}  // namespace retort
