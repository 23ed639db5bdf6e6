#include "kernels/matmul_tiles_impl.h"

#if defined(__ARM_NEON)
#include "kernels/simd_neon.h"

namespace retort {
const MatmulTiles& matmul_tiles_neon() { return matmul_tiles<Neon>(); }
}  // namespace retort
#else
namespace retort {
const MatmulTiles& matmul_tiles_neon() { return matmul_tiles_scalar(); }
}  // namespace retort
#endif
