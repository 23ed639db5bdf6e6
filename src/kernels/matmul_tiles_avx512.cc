#include "kernels/matmul_tiles_impl.h"

#if defined(__AVX512BF16__)
#include "kernels/simd_avx512.h"

namespace retort {
const MatmulTiles& matmul_tiles_avx512() { return matmul_tiles<Avx512>(); }
}  // namespace retort
#else
namespace retort {
const MatmulTiles& matmul_tiles_avx512() { return matmul_tiles_scalar(); }
}  // namespace retort
#endif
