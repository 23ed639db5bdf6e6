#include "kernels/attention_impl.h"

#if defined(__ARM_NEON)
#include "kernels/simd_neon.h"

namespace retort {
const AttentionKernels& attention_neon() { return Attention<Neon>::table(); }
}  // namespace retort
#else
namespace retort {
const AttentionKernels& attention_neon() { return attention_scalar(); }
}  // namespace retort
#endif
