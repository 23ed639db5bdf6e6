#include "kernels/attention_impl.h"

#if defined(__AVX512BF16__)
#include "kernels/simd_avx512.h"

namespace retort {
const AttentionKernels& attention_avx512() { return Attention<Avx512>::table(); }
}  // namespace retort
#else
namespace retort {
const AttentionKernels& attention_avx512() { return attention_scalar(); }
}  // namespace retort
#endif
