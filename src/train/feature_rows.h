// Row kernels that torch would take several passes for: the exponential and softmax feature maps, rope, RMS norm, SwiGLU.
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

// x[rows, columns] f32 -> bf16 of x / rms * w; 1/rms to `inverse` when not null.
void rms_norm(const float* x, const float* w, uint16_t* y, float* inverse, int64_t rows, int64_t columns, float eps);
// dx of the above.
void rms_norm_backward(const float* x, const float* w, const float* inverse, const uint16_t* dy, float* dx, int64_t rows,
                       int64_t columns);

// gu[rows, 2*columns] = gate | up -> SiLU(gate) o up [rows, columns].
void swiglu(const uint16_t* gu, uint16_t* y, int64_t rows, int64_t columns);
void swiglu_backward(const uint16_t* gu, const uint16_t* dy, uint16_t* dgu, int64_t rows, int64_t columns);

// Rotates `heads` heads of width 2*half: x[rows, heads, 2*half], cosine/sine[rows, half] of each row's position.
// direction -1 rotates back. `in` and `out` may be the same.
void rope(const float* in, float* out, const float* cosine, const float* sine, int64_t rows, int64_t stride, int heads, int half,
          float direction);

}  // namespace retort::train::rows
