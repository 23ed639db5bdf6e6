#include "kernels/elementwise.h"

#include <cmath>

namespace retort {

const ElementwiseKernels& elementwise(Isa isa) {
  switch (isa) {
    case Isa::kAmx:
    case Isa::kAvx512: return elementwise_avx512();
    case Isa::kAvx2: return elementwise_avx2();
    case Isa::kNeon:
    case Isa::kNeonDot: return elementwise_neon();
    case Isa::kScalar: break;
  }
  return elementwise_scalar();
}

void rope_angles(const double* frequencies, int64_t n, int64_t position, float* cosine, float* sine) {
  for (int64_t i = 0; i < n; ++i) {
    const double angle = double(position) * frequencies[i];
    cosine[i] = float(std::cos(angle));
    sine[i] = float(std::sin(angle));
  }
}

}  // namespace retort
