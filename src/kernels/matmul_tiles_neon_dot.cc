#include "kernels/matmul_tiles_impl.h"

#if defined(__ARM_FEATURE_DOTPROD)
#include "kernels/simd_neon.h"

namespace retort {
const MatmulTiles& matmul_tiles_neon_dot() { return matmul_tiles<NeonDot>(); }
}  // namespace retort
#else
namespace retort {
const MatmulTiles& matmul_tiles_neon_dot() { return matmul_tiles_neon(); }
}  // namespace retort
#endif
