#include "kernels/matmul_tiles_impl.h"

#if defined(__AVX2__)
#include "kernels/simd_avx2.h"

namespace retort {
const MatmulTiles& matmul_tiles_avx2() { return matmul_tiles<Avx2>(); }
}  // namespace retort
#else
namespace retort {
const MatmulTiles& matmul_tiles_avx2() { return matmul_tiles_scalar(); }
}  // namespace retort
#endif
