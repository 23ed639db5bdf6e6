#include "kernels/attention_impl.h"

#if defined(__AVX2__)
#include "kernels/simd_avx2.h"

namespace retort {
const AttentionKernels& attention_avx2() { return Attention<Avx2>::table(); }
}  // namespace retort
#else
namespace retort {
const AttentionKernels& attention_avx2() { return attention_scalar(); }
}  // namespace retort
#endif
