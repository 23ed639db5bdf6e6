#include "kernels/elementwise_impl.h"

#if defined(__ARM_NEON)
#include "kernels/simd_neon.h"

namespace retort {
const ElementwiseKernels& elementwise_neon() { return Elementwise<Neon>::table(); }
}  // namespace retort
#else
namespace retort {
const ElementwiseKernels& elementwise_neon() { return elementwise_scalar(); }
}  // namespace retort
#endif
