#include "kernels/attention_impl.h"
#include "kernels/simd_scalar.h"

namespace retort {
const AttentionKernels& attention_scalar() { return Attention<Scalar>::table(); }
}  // namespace retort
