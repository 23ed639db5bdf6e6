// Row kernels that torch would take several passes for: exponential, softmax and quadratic feature maps, rope, RMS norms, SwiGLU,
// short convolutions.
//
// Layer: train, torch-free. Single-threaded; thread-safe (callers split the rows). bf16 values are their upper 16 bits.
#pragma once

#include <cstdint>

namespace retort::train::rows {

// y = exp(z + b - max) with the row's maximum in `maximum`, or softmax(z + b). z[rows, columns] bf16; b may be null. Rows of y are
// `stride` apart, elements of maximum `maximum_stride`.
void exp_forward(const uint16_t* z, const float* b, float* y, int64_t stride, float* maximum, int64_t maximum_stride, int64_t rows,
                 int64_t columns);
void softmax_forward(const uint16_t* z, const float* b, float* y, int64_t stride, int64_t rows, int64_t columns);

// dz = dy o y (exp with a constant maximum), or y o (dy - sum(dy o y)) (softmax); db[columns] += column sums of dz. Rows of dy and y
// are `stride` apart.
void exp_backward(const float* dy, const float* y, int64_t stride, uint16_t* dz, float* db, int64_t rows, int64_t columns);
void softmax_backward(const float* dy, const float* y, int64_t stride, uint16_t* dz, float* db, int64_t rows, int64_t columns);

// y[rows, f(f+1)/2] = x_i^2, then sqrt(2) x_i x_j for i < j. x[rows, f]
void square(const float* x, float* y, int64_t rows, int64_t f);
void square_backward(const float* x, const float* dy, float* dx, int64_t rows, int64_t f);

// x[rows, columns] f32 -> bf16 of x / rms * w; 1/rms to `inverse` when not null.
void rms_norm(const float* x, const float* w, uint16_t* y, float* inverse, int64_t rows, int64_t columns, float eps);
// dx of the above.
void rms_norm_backward(const float* x, const float* w, const float* inverse, const uint16_t* dy, float* dx, int64_t rows,
                       int64_t columns);

// Per head of d columns: y = x / rms * w, in f32; 1/rms to inverse[rows, heads]. Weights of neighbouring heads are w_stride apart (0:
// shared); w may be null.
void rms_norm_heads(const float* x, const float* w, int64_t w_stride, float* y, float* inverse, int64_t rows, int64_t heads, int64_t d,
                    float eps);
// dx of the above; dw += where not null.
void rms_norm_heads_backward(const float* x, const float* w, int64_t w_stride, const float* inverse, const float* dy, float* dx, float* dw,
                             int64_t rows, int64_t heads, int64_t d);

// Causal depthwise convolution of one sequence: y[t] = b + sum_j taps[j] x[t - count + 1 + j], taps[count, channels], b may be null.
// Rows of x are `stride` apart.
void short_conv(const float* x, int64_t stride, const float* taps, const float* b, float* y, int64_t rows, int64_t channels, int64_t count);
// dx of the above; d_taps += and, where not null, db +=.
void short_conv_backward(const float* x, int64_t stride, const float* taps, const float* dy, float* dx, float* d_taps, float* db,
                         int64_t rows, int64_t channels, int64_t count);

// gu[rows, 2*columns] = gate | up -> SiLU(gate) o up [rows, columns].
void swiglu(const uint16_t* gu, uint16_t* y, int64_t rows, int64_t columns);
void swiglu_backward(const uint16_t* gu, const uint16_t* dy, uint16_t* dgu, int64_t rows, int64_t columns);

// Rotates `heads` heads of width 2*half: x[rows, heads, 2*half], cosine/sine[rows, half] of each row's position.
// direction -1 rotates back. `in` and `out` may be the same.
void rope(const float* in, float* out, const float* cosine, const float* sine, int64_t rows, int64_t stride, int heads, int half,
          float direction);

}  // namespace retort::train::rows
