#include "kernels/elementwise_impl.h"

#if defined(__AVX512BF16__)
#include "kernels/simd_avx512.h"

namespace retort {
const ElementwiseKernels& elementwise_avx512() { return Elementwise<Avx512>::table(); }
}  // namespace retort
#else
namespace retort {
const ElementwiseKernels& elementwise_avx512() { return elementwise_scalar(); }
}  // namespace retort
#endif
