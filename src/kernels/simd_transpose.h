// Eight rows of eight floats, turned. Layer: kernels. Only for *_avx2.cc and *_avx512.cc.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace retort {

// out[j, i] = x[i, j]. A struct of its own for each instruction set: no function of the units that are compiled for newer processors can
// take the place of an older one's.
template <class Isa>
struct Transpose8 {
  static void run(const float* x, int64_t ld, float* out, int64_t out_ld) {
    __m256 r[8], t[8];
    for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(x + i * ld);
    for (int i = 0; i < 8; i += 2) {
      t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
      t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    // r[4h + j]: column j of each half, rows 4h to 4h + 3.
    for (int h = 0; h < 8; h += 4) {
      r[h] = _mm256_shuffle_ps(t[h], t[h + 2], 0x44);
      r[h + 1] = _mm256_shuffle_ps(t[h], t[h + 2], 0xee);
      r[h + 2] = _mm256_shuffle_ps(t[h + 1], t[h + 3], 0x44);
      r[h + 3] = _mm256_shuffle_ps(t[h + 1], t[h + 3], 0xee);
    }
    for (int j = 0; j < 4; ++j) {
      _mm256_storeu_ps(out + j * out_ld, _mm256_permute2f128_ps(r[j], r[4 + j], 0x20));
      _mm256_storeu_ps(out + (4 + j) * out_ld, _mm256_permute2f128_ps(r[j], r[4 + j], 0x31));
    }
  }
};

}  // namespace retort
