#include "kernels/elementwise_impl.h"
#include "kernels/simd_scalar.h"

namespace retort {
const ElementwiseKernels& elementwise_scalar() { return Elementwise<Scalar>::table(); }
}  // namespace retort
