#include "io/quant_blocks.h"

#include <cstring>

#include "base/error.h"
#include "base/half.h"

namespace retort {
namespace {

uint8_t byte_at(const std::byte* p, int i) { return static_cast<uint8_t>(p[i]); }

uint16_t u16_at(const std::byte* p, int64_t offset) {
  uint16_t v;
  std::memcpy(&v, p + offset, sizeof v);
  return v;
}

uint32_t u32_at(const std::byte* p, int64_t offset) {
  uint32_t v;
  std::memcpy(&v, p + offset, sizeof v);
  return v;
}

float f16_at(const std::byte* p, int64_t offset) { return f16_to_float(u16_at(p, offset)); }

void block_q8_0(const std::byte* p, float* out) {
  const float d = f16_at(p, 0);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(byte_at(p, 2 + i)));
}

void block_q4_0(const std::byte* p, float* out) {
  const float d = f16_at(p, 0);
  for (int i = 0; i < 16; ++i) {
    const int q = byte_at(p, 2 + i);
    out[i] = d * static_cast<float>((q & 15) - 8);
    out[i + 16] = d * static_cast<float>((q >> 4) - 8);
  }
}

void block_q4_1(const std::byte* p, float* out) {
  const float d = f16_at(p, 0), m = f16_at(p, 2);
  for (int i = 0; i < 16; ++i) {
    const int q = byte_at(p, 4 + i);
    out[i] = d * static_cast<float>(q & 15) + m;
    out[i + 16] = d * static_cast<float>(q >> 4) + m;
  }
}

void block_q5_0(const std::byte* p, float* out) {
  const float d = f16_at(p, 0);
  const uint32_t fifth = u32_at(p, 2);
  for (int i = 0; i < 16; ++i) {
    const int q = byte_at(p, 6 + i);
    out[i] = d * static_cast<float>(((q & 15) | static_cast<int>(fifth >> i & 1) << 4) - 16);
    out[i + 16] = d * static_cast<float>(((q >> 4) | static_cast<int>(fifth >> (i + 16) & 1) << 4) - 16);
  }
}

void block_q5_1(const std::byte* p, float* out) {
  const float d = f16_at(p, 0), m = f16_at(p, 2);
  const uint32_t fifth = u32_at(p, 4);
  for (int i = 0; i < 16; ++i) {
    const int q = byte_at(p, 8 + i);
    out[i] = d * static_cast<float>((q & 15) | static_cast<int>(fifth >> i & 1) << 4) + m;
    out[i + 16] = d * static_cast<float>((q >> 4) | static_cast<int>(fifth >> (i + 16) & 1) << 4) + m;
  }
}

struct ScaleAndOffset {
  float scale, offset;
};

// Group j of 8 from 12 packed bytes: the first four groups' six bits lie in bytes j and j + 4; the last four are split,
// low nibbles in bytes 8 to 11, the two high bits on top of the first four.
ScaleAndOffset k_group(const std::byte* packed, int j) {
  if (j < 4) return {static_cast<float>(byte_at(packed, j) & 63), static_cast<float>(byte_at(packed, j + 4) & 63)};
  const int low = byte_at(packed, j + 4);
  return {static_cast<float>((low & 15) | (byte_at(packed, j - 4) >> 6) << 4),
          static_cast<float>((low >> 4) | (byte_at(packed, j) >> 6) << 4)};
}

void block_q4_k(const std::byte* p, float* out) {
  const float d = f16_at(p, 0), m = f16_at(p, 2);
  const std::byte* q = p + 16;
  for (int j = 0; j < 8; ++j) {
    const auto [s, o] = k_group(p + 4, j);
    const float scale = d * s, offset = m * o;
    for (int i = 0; i < 32; ++i) {
      const int both = byte_at(q, j / 2 * 32 + i);
      out[j * 32 + i] = scale * static_cast<float>(j % 2 ? both >> 4 : both & 15) - offset;
    }
  }
}

void block_q5_k(const std::byte* p, float* out) {
  const float d = f16_at(p, 0), m = f16_at(p, 2);
  const std::byte *fifth = p + 16, *q = p + 48;
  for (int j = 0; j < 8; ++j) {
    const auto [s, o] = k_group(p + 4, j);
    const float scale = d * s, offset = m * o;
    for (int i = 0; i < 32; ++i) {
      const int both = byte_at(q, j / 2 * 32 + i);
      const int value = (j % 2 ? both >> 4 : both & 15) | (byte_at(fifth, i) >> j & 1) << 4;
      out[j * 32 + i] = scale * static_cast<float>(value) - offset;
    }
  }
}

// Two halves of 128; in each, low nibbles of 64 bytes serve values 0-63 (low) and 64-127 (high), and byte i of 32 holds
// the two high bits of values i, i + 32, i + 64, i + 96.
void block_q6_k(const std::byte* p, float* out) {
  const std::byte *low = p, *high = p + 128, *scales = p + 192;
  const float d = f16_at(p, 208);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, in_half = i % 128;
    const int nibbles = byte_at(low, half * 64 + in_half % 64);
    const int pairs = byte_at(high, half * 32 + in_half % 32);
    const int value = (in_half < 64 ? nibbles & 15 : nibbles >> 4) | (pairs >> (in_half / 32 * 2) & 3) << 4;
    const float scale = d * static_cast<float>(static_cast<int8_t>(byte_at(scales, i / 16)));
    out[i] = scale * static_cast<float>(value - 32);
  }
}

template <class Block>
void each_block(TensorType type, const std::byte* data, float* out, int64_t n, Block block) {
  const TensorTypeInfo& t = tensor_type_info(type);
  for (int64_t i = 0; i < n; i += t.block_values, data += t.block_bytes) block(data, out + i);
}

}  // namespace

const TensorTypeInfo& tensor_type_info(TensorType type) {
  for (const TensorTypeInfo& t : kTensorTypes) {
    if (t.type == type) return t;
  }
  RETORT_CHECK(false, "tensor type ", static_cast<uint32_t>(type));
  return kTensorTypes[0];
}

std::optional<TensorType> tensor_type_from_id(uint32_t id) {
  for (const TensorTypeInfo& t : kTensorTypes) {
    if (static_cast<uint32_t>(t.type) == id) return t.type;
  }
  return std::nullopt;
}

const char* unsupported_type_name(uint32_t id) {
  switch (id) {
    case 9:
      return "Q8_1";
    case 10:
      return "Q2_K";
    case 11:
      return "Q3_K";
    case 15:
      return "Q8_K";
    case 16:
      return "IQ2_XXS";
    case 17:
      return "IQ2_XS";
    case 18:
      return "IQ3_XXS";
    case 19:
      return "IQ1_S";
    case 20:
      return "IQ4_NL";
    case 21:
      return "IQ3_S";
    case 22:
      return "IQ2_S";
    case 23:
      return "IQ4_XS";
    case 24:
      return "I8";
    case 25:
      return "I16";
    case 26:
      return "I32";
    case 27:
      return "I64";
    case 28:
      return "F64";
    case 29:
      return "IQ1_M";
    case 34:
      return "TQ1_0";
    case 35:
      return "TQ2_0";
    case 39:
      return "MXFP4";
    default:
      return "?";
  }
}

std::string supported_type_names() {
  std::string out;
  for (const TensorTypeInfo& t : kTensorTypes) out += (out.empty() ? "" : ", ") + std::string(t.name);
  return out;
}

void dequantise_row(TensorType type, const std::byte* data, float* out, int64_t n) {
  switch (type) {
    case TensorType::kF32:
      std::memcpy(out, data, static_cast<size_t>(n) * sizeof(float));
      return;
    case TensorType::kF16:
      for (int64_t i = 0; i < n; ++i) out[i] = f16_at(data, 2 * i);
      return;
    case TensorType::kBF16:
      for (int64_t i = 0; i < n; ++i) out[i] = bf16_to_float(u16_at(data, 2 * i));
      return;
    case TensorType::kQ8_0:
      return each_block(type, data, out, n, block_q8_0);
    case TensorType::kQ4_0:
      return each_block(type, data, out, n, block_q4_0);
    case TensorType::kQ4_1:
      return each_block(type, data, out, n, block_q4_1);
    case TensorType::kQ5_0:
      return each_block(type, data, out, n, block_q5_0);
    case TensorType::kQ5_1:
      return each_block(type, data, out, n, block_q5_1);
    case TensorType::kQ4_K:
      return each_block(type, data, out, n, block_q4_k);
    case TensorType::kQ5_K:
      return each_block(type, data, out, n, block_q5_k);
    case TensorType::kQ6_K:
      return each_block(type, data, out, n, block_q6_k);
  }
}

}  // namespace retort
