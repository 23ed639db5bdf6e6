// What loops over rows are made of: bf16s, an exponential that vectorises, sums in a fixed order.
//
// Layer: train, torch-free. For files of RETORT_CLONES.
#pragma once

#include <cstdint>

#define RETORT_INLINE inline __attribute__((always_inline))

namespace retort::train::rows {

RETORT_INLINE float widen(uint16_t x) { return __builtin_bit_cast(float, uint32_t(x) << 16); }
RETORT_INLINE uint16_t narrow(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// exp, relative error below 2e-7 within [-87, 88]; clamped outside.
RETORT_INLINE float fast_exp(float x) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float clamped = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  const float shifted = clamped * 1.44269504f + kMagic;
  const float n = shifted - kMagic;
  const float f = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1.0f;
  const int32_t exponent = __builtin_bit_cast(int32_t, shifted) << 23;
  return __builtin_bit_cast(float, __builtin_bit_cast(int32_t, p) + exponent);
}

// Sums and maxima in 16 lanes, so that the order does not depend on the instruction set.
constexpr int kLanes = 16;

RETORT_INLINE float lane_sum(const float* lanes) {
  float sum = 0;
  for (int i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

}  // namespace retort::train::rows
