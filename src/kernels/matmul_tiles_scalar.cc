#include "kernels/matmul_tiles_impl.h"
#include "kernels/simd_scalar.h"

namespace retort {
const MatmulTiles& matmul_tiles_scalar() { return matmul_tiles<Scalar>(); }
}  // namespace retort
