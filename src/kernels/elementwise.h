// Row operations between the matrix products, vectorised: norms, rope, activations, softmax.
//
// Layer: kernels. Thread-safe: plain functions of their arguments. `y` may be `x` itself (no other overlap). The same bits on
// every instruction set.
//
// exp is a polynomial with a relative error below 2e-7 over [-86, 88]; below e^-86.6 (2e-38) it gives 0, NaN stays NaN.
#pragma once

#include <cstdint>

#include "base/cpu.h"

namespace retort {

struct ElementwiseKernels {
  // y = x / sqrt(mean(x^2) + eps) * w; w null: ones
  void (*rms_norm)(const float* x, const float* w, float eps, int64_t n, float* y);
  // Rotates `heads` heads of `d` columns in place; pairs (i, i + d/2); cosine, sine: [d/2]
  void (*rope)(float* x, int64_t heads, int64_t d, const float* cosine, const float* sine);
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* y);  // y = silu(gate) * up
  void (*silu)(const float* x, int64_t n, float* y);
  void (*sigmoid)(const float* x, int64_t n, float* y);
  void (*log_sigmoid)(const float* x, int64_t n, float* y);
  void (*softplus)(const float* x, int64_t n, float* y);
  void (*exp)(const float* x, int64_t n, float* y);
  void (*one_minus_exp)(const float* x, int64_t n, float* y);  // 1 - e^x, to 4e-7 of itself also near 0
  void (*tanh)(const float* x, int64_t n, float* y);
  void (*center)(const float* x, int64_t n, float* y);  // y = x - mean(x)
  float (*exp_minus_max)(const float* x, int64_t n, float* y);  // y = exp(x - m), returns m = max(x)
  void (*softmax)(const float* x, int64_t n, float* y);
  void (*add)(const float* a, const float* b, int64_t n, float* y);
  void (*mul)(const float* a, const float* b, int64_t n, float* y);
  void (*scale)(const float* x, float c, int64_t n, float* y);
  void (*add_scaled)(const float* x, float c, int64_t n, float* y);  // y += c x
  void (*mul_add)(const float* a, const float* b, int64_t n, float* y);  // y += a b
  float (*dot)(const float* a, const float* b, int64_t n);
  int64_t (*argmax)(const float* x, int64_t n);  // the first of the largest
  void (*to_bf16)(const float* x, int64_t n, uint16_t* y);
  void (*from_bf16)(const uint16_t* x, int64_t n, float* y);
};

const ElementwiseKernels& elementwise(Isa isa = active_isa());

// cosine and sine of position * frequencies[i], in double until the end: positions reach a million. [n] each
void rope_angles(const double* frequencies, int64_t n, int64_t position, float* cosine, float* sine);

const ElementwiseKernels& elementwise_scalar();
const ElementwiseKernels& elementwise_avx2();
const ElementwiseKernels& elementwise_neon();
const ElementwiseKernels& elementwise_avx512();

}  // namespace retort
