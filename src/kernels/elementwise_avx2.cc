#include "kernels/elementwise_impl.h"

#if defined(__AVX2__)
#include "kernels/simd_avx2.h"

namespace retort {
const ElementwiseKernels& elementwise_avx2() { return Elementwise<Avx2>::table(); }
}  // namespace retort
#else
namespace retort {
const ElementwiseKernels& elementwise_avx2() { return elementwise_scalar(); }
}  // namespace retort
#endif
