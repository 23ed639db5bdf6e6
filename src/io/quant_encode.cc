#include "io/quant_encode.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/half.h"

namespace retort {
namespace {

constexpr int kBlock = 32;

void put_half(std::byte* out, uint16_t half) { std::memcpy(out, &half, sizeof half); }

// Quotients are taken with the unrounded scale, as ggml does; what is stored of it is f16.
float inverse(float d) { return d != 0.0f ? 1.0f / d : 0.0f; }

void encode_q8_0(const float* x, std::byte* out) {
  float most = 0;
  for (int i = 0; i < kBlock; ++i) most = std::max(most, std::abs(x[i]));
  const float d = most / 127.0f, scale = inverse(d);
  put_half(out, float_to_f16(d));
  for (int i = 0; i < kBlock; ++i) out[2 + i] = std::byte(static_cast<uint8_t>(static_cast<int8_t>(std::round(x[i] * scale))));
}

uint8_t nibble(float value) { return static_cast<uint8_t>(std::clamp(std::trunc(value), 0.0f, 15.0f)); }

template <class Quantise>
void put_nibbles(std::byte* out, Quantise quantise) {
  for (int i = 0; i < kBlock / 2; ++i) out[i] = std::byte(static_cast<uint8_t>(quantise(i) | quantise(i + kBlock / 2) << 4));
}

void encode_q4_0(const float* x, std::byte* out) {
  float extreme = 0;
  for (int i = 0; i < kBlock; ++i) {
    if (std::abs(x[i]) > std::abs(extreme)) extreme = x[i];
  }
  const float d = extreme / -8.0f, scale = inverse(d);
  put_half(out, float_to_f16(d));
  put_nibbles(out + 2, [&](int i) { return nibble(x[i] * scale + 8.5f); });
}

void encode_q4_1(const float* x, std::byte* out) {
  const auto [least, most] = std::minmax_element(x, x + kBlock);
  const float m = *least, d = (*most - m) / 15.0f, scale = inverse(d);
  put_half(out, float_to_f16(d));
  put_half(out + 2, float_to_f16(m));
  put_nibbles(out + 4, [&](int i) { return nibble((x[i] - m) * scale + 0.5f); });
}

}  // namespace

bool can_encode(TensorType type) {
  using enum TensorType;
  return type == kF32 || type == kF16 || type == kBF16 || type == kQ8_0 || type == kQ4_0 || type == kQ4_1;
}

std::vector<std::byte> encode_values(TensorType type, const std::vector<float>& values) {
  const TensorTypeInfo& info = tensor_type_info(type);
  const auto count = static_cast<int64_t>(values.size());
  RETORT_CHECK(can_encode(type) && count % info.block_values == 0, info.name, " of ", count, " values");
  std::vector<std::byte> out(static_cast<size_t>(row_bytes(type, count)));
  std::byte* at = out.data();
  for (int64_t i = 0; i < count; i += info.block_values, at += info.block_bytes) {
    const float* x = values.data() + i;
    switch (type) {
      case TensorType::kF16: put_half(at, float_to_f16(*x)); break;
      case TensorType::kBF16: put_half(at, float_to_bf16(*x)); break;
      case TensorType::kQ8_0: encode_q8_0(x, at); break;
      case TensorType::kQ4_0: encode_q4_0(x, at); break;
      case TensorType::kQ4_1: encode_q4_1(x, at); break;
      default: std::memcpy(at, x, sizeof *x); break;
    }
  }
  return out;
}

}  // namespace retort
