// Sixteen floats at a time in four NEON registers; simd_scalar.h says what each operation does.
// Layer: kernels. Only for *_neon.cc and *_neon_dot.cc.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace retort {

// sum += levels below 16 times x, four products to each of the sums. Without byte dot products: two of them, 2 * 15 * 128, fit 16 bits.
struct NeonProducts {
  static int32x4_t add(int32x4_t sum, uint8x16_t levels, int8x16_t x) {
    const int8x16_t w = vreinterpretq_s8_u8(levels);
    const int16x8_t first = vmull_s8(vget_low_s8(w), vget_low_s8(x)), second = vmull_high_s8(w, x);
    return vpadalq_s16(sum, vpaddq_s16(first, second));
  }
};

#if defined(__ARM_FEATURE_DOTPROD)
// Arm 8.2 and later, and Apple's: in one instruction.
struct NeonDotProducts {
  static int32x4_t add(int32x4_t sum, uint8x16_t levels, int8x16_t x) { return vdotq_s32(sum, vreinterpretq_s8_u8(levels), x); }
};
#endif

// A struct of its own for each: no function of the units that are compiled for newer processors can take the place of an older one's.
template <class Products>
struct NeonLanes {
  static constexpr int kTileSums = 6;
  struct F { float32x4_t v[4]; };
  struct I { int32x4_t v[4]; };
  struct Levels { uint8x16_t v[4]; };  // 4 rows each
  struct Dot4 { int32x4_t v[4]; };
  struct Dot8 { int32x4_t low[4], high[4]; };  // of the levels' nibbles: a level above 127 is no signed byte

  template <class Fn>
  static F map(Fn&& fn) { return {{fn(0), fn(1), fn(2), fn(3)}}; }
  template <class Fn>
  static I imap(Fn&& fn) { return {{fn(0), fn(1), fn(2), fn(3)}}; }

  static F zero() { return set1(0.0f); }
  static F set1(float x) { return map([&](int) { return vdupq_n_f32(x); }); }
  static F load(const float* p) { return map([&](int i) { return vld1q_f32(p + 4 * i); }); }
  static F load_part(const float* p, int n) {
    float whole[16] = {};
    std::memcpy(whole, p, size_t(n) * 4);
    return load(whole);
  }
  static F load_bf16(const uint16_t* p) {
    return map([&](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)); });
  }
  static F load_f16(const uint16_t* p) {
    return map([&](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
  }
  static void load_bf16_pairs(const uint16_t* p, F& even, F& odd) {
    for (int i = 0; i < 4; ++i) {
      const uint32x4_t both = vreinterpretq_u32_u16(vld1q_u16(p + 8 * i));
      even.v[i] = vreinterpretq_f32_u32(vshlq_n_u32(both, 16));
      odd.v[i] = vreinterpretq_f32_u32(vandq_u32(both, vdupq_n_u32(0xffff0000u)));
    }
  }
  static void store(float* p, F a) {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.v[i]);
  }
  static void store_part(float* p, F a, int n) {
    float whole[16];
    store(whole, a);
    std::memcpy(p, whole, size_t(n) * 4);
  }
  static void store_bf16(uint16_t* p, F a) {
    for (int i = 0; i < 4; ++i) {
      const uint32x4_t u = vreinterpretq_u32_f32(a.v[i]), top = vshrq_n_u32(u, 16);
      const uint32x4_t nearest = vshrq_n_u32(vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), vandq_u32(top, vdupq_n_u32(1))), 16);
      const uint32x4_t quiet = vorrq_u32(top, vdupq_n_u32(64));
      vst1_u16(p + 4 * i, vmovn_u32(vbslq_u32(vceqq_f32(a.v[i], a.v[i]), nearest, quiet)));
    }
  }
  static F add(F a, F b) { return map([&](int i) { return vaddq_f32(a.v[i], b.v[i]); }); }
  static F sub(F a, F b) { return map([&](int i) { return vsubq_f32(a.v[i], b.v[i]); }); }
  static F mul(F a, F b) { return map([&](int i) { return vmulq_f32(a.v[i], b.v[i]); }); }
  static F div(F a, F b) { return map([&](int i) { return vdivq_f32(a.v[i], b.v[i]); }); }
  static F fma(F a, F b, F c) { return map([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); }); }
  static float32x4_t larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }  // b when either is NaN
  static F max(F a, F b) { return map([&](int i) { return larger(a.v[i], b.v[i]); }); }
  static F min(F a, F b) { return map([&](int i) { return vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); }); }
  static F abs(F a) { return map([&](int i) { return vabsq_f32(a.v[i]); }); }
  static F zero_where_less(F a, F x, F bound) {
    return map([&](int i) { return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a.v[i]), vcltq_f32(x.v[i], bound.v[i]))); });
  }
  static F to_float(I a) { return map([&](int i) { return vcvtq_f32_s32(a.v[i]); }); }
  static I round(F a) { return imap([&](int i) { return vcvtnq_s32_f32(a.v[i]); }); }
  static F scale_by_power(F a, I n) {
    return map([&](int i) { return vmulq_f32(a.v[i], vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n.v[i], vdupq_n_s32(127)), 23))); });
  }
  static I minus_one(I n) { return imap([&](int i) { return vsubq_s32(n.v[i], vdupq_n_s32(1)); }); }
  // The scalar tree: lanes 8 apart, then 4, 2, 1.
  static float sum(F a) {
    const float32x4_t b = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
    const float32x2_t c = vadd_f32(vget_low_f32(b), vget_high_f32(b));
    return vget_lane_f32(c, 0) + vget_lane_f32(c, 1);
  }
  static F sums(const F (&a)[16]) {
    float s[16];
    for (int i = 0; i < 16; ++i) s[i] = sum(a[i]);
    return load(s);
  }
  static float max_of(F a) {
    const float32x4_t b = larger(larger(a.v[0], a.v[2]), larger(a.v[1], a.v[3]));
    float32x2_t low = vget_low_f32(b), high = vget_high_f32(b);
    low = vbsl_f32(vcgt_f32(low, high), low, high);
    const float x = vget_lane_f32(low, 0), y = vget_lane_f32(low, 1);
    return x > y ? x : y;
  }
  static void store_s8(int8_t* p, I a) {
    const int16x8_t low = vcombine_s16(vmovn_s32(a.v[0]), vmovn_s32(a.v[1])), high = vcombine_s16(vmovn_s32(a.v[2]), vmovn_s32(a.v[3]));
    vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
  }
  static int32_t sum(I a) { return vaddvq_s32(vaddq_s32(vaddq_s32(a.v[0], a.v[1]), vaddq_s32(a.v[2], a.v[3]))); }
  static int32_t sum_s8(const int8_t* p) { return vaddlvq_s8(vld1q_s8(p)); }

  static I iset1(int32_t x) { return imap([&](int) { return vdupq_n_s32(x); }); }
  template <int kShift>
  static I shift_left(I a) { return imap([&](int i) { return vshlq_n_s32(a.v[i], kShift); }); }
  static Levels load_levels(const std::byte* p) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(p);
    return {{vld1q_u8(bytes), vld1q_u8(bytes + 16), vld1q_u8(bytes + 32), vld1q_u8(bytes + 48)}};
  }
  static uint8x16_t low_nibbles(uint8x16_t a) { return vandq_u8(a, vdupq_n_u8(15)); }
  static Levels low(Levels a) { return {{low_nibbles(a.v[0]), low_nibbles(a.v[1]), low_nibbles(a.v[2]), low_nibbles(a.v[3])}}; }
  static Levels high(Levels a) { return {{vshrq_n_u8(a.v[0], 4), vshrq_n_u8(a.v[1], 4), vshrq_n_u8(a.v[2], 4), vshrq_n_u8(a.v[3], 4)}}; }
  static int8x16_t broadcast4(const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
  }
  static void start(Dot4& d, I base) {
    for (int i = 0; i < 4; ++i) d.v[i] = base.v[i];
  }
  static void start(Dot8& d, I base) {
    for (int i = 0; i < 4; ++i) d.low[i] = base.v[i], d.high[i] = vdupq_n_s32(0);
  }
  static void step(Dot4& d, Levels w, const int8_t* x) {
    const int8x16_t b = broadcast4(x);
    for (int i = 0; i < 4; ++i) d.v[i] = Products::add(d.v[i], w.v[i], b);
  }
  static void step(Dot8& d, Levels w, const int8_t* x) {
    const int8x16_t b = broadcast4(x);
    for (int i = 0; i < 4; ++i) {
      d.low[i] = Products::add(d.low[i], low_nibbles(w.v[i]), b);
      d.high[i] = Products::add(d.high[i], vshrq_n_u8(w.v[i], 4), b);
    }
  }
  static I finish(const Dot4& d, I) { return imap([&](int i) { return d.v[i]; }); }
  static I finish(const Dot8& d, I) { return imap([&](int i) { return vaddq_s32(d.low[i], vshlq_n_s32(d.high[i], 4)); }); }
  static F dot_bf16(F acc, const uint16_t* w, const uint16_t* x) {
    F even, odd;
    load_bf16_pairs(w, even, odd);
    const float32x2_t two = vreinterpret_f32_u32(vset_lane_u32(uint32_t(x[1]) << 16, vdup_n_u32(uint32_t(x[0]) << 16), 1));
    return map([&](int i) { return vfmaq_lane_f32(vfmaq_lane_f32(acc.v[i], even.v[i], two, 0), odd.v[i], two, 1); });
  }
};

using Neon = NeonLanes<NeonProducts>;  // what every 64-bit Arm has
#if defined(__ARM_FEATURE_DOTPROD)
using NeonDot = NeonLanes<NeonDotProducts>;
#endif

}  // namespace retort
