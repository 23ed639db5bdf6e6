// The number formats a weight may be stored in, and what each block means in f32.
//
// Layer: io. Thread-safe: pure functions. Ids are those of GGUF tensor types; safetensors' F32, F16 and BF16 map to the
// same.
//
// A block of n values, little-endian, d and m in f16 (ggml's definitions; q unsigned unless said otherwise):
//   Q8_0  d, q[32] int8                          x = d q
//   Q4_0  d, q[16] (low half first)              x = d (q - 8)
//   Q4_1  d, m, q[16]                            x = d q + m
//   Q5_0  d, fifth bits u32, q[16]               x = d (q - 16)
//   Q5_1  d, m, fifth bits u32, q[16]            x = d q + m
//   Q4_K  d, m, 12 bytes of 6-bit (s, o) for 8 groups of 32, q[128]             x = d s q - m o
//   Q5_K  the same, then fifth bits [32], q[128]                                x = d s q - m o
//   Q6_K  low nibbles [128], high pairs [64], int8 s for 16 groups of 16, d     x = d s (q - 32)
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace retort {

enum class TensorType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

struct TensorTypeInfo {
  TensorType type;
  const char* name;
  int block_values;
  int block_bytes;
};

// Every supported type, in order of id.
inline constexpr std::array<TensorTypeInfo, 11> kTensorTypes{{
    {TensorType::kF32, "F32", 1, 4},
    {TensorType::kF16, "F16", 1, 2},
    {TensorType::kQ4_0, "Q4_0", 32, 18},
    {TensorType::kQ4_1, "Q4_1", 32, 20},
    {TensorType::kQ5_0, "Q5_0", 32, 22},
    {TensorType::kQ5_1, "Q5_1", 32, 24},
    {TensorType::kQ8_0, "Q8_0", 32, 34},
    {TensorType::kQ4_K, "Q4_K", 256, 144},
    {TensorType::kQ5_K, "Q5_K", 256, 176},
    {TensorType::kQ6_K, "Q6_K", 256, 210},
    {TensorType::kBF16, "BF16", 1, 2},
}};

const TensorTypeInfo& tensor_type_info(TensorType type);
inline const char* tensor_type_name(TensorType type) { return tensor_type_info(type).name; }
std::optional<TensorType> tensor_type_from_id(uint32_t id);
// "Q2_K" for an id that GGUF knows and Retort does not read, "?" for others.
const char* unsupported_type_name(uint32_t id);
std::string supported_type_names();

// Bytes of a row of n values; n is a multiple of block_values.
inline int64_t row_bytes(TensorType type, int64_t n) {
  return n / tensor_type_info(type).block_values * tensor_type_info(type).block_bytes;
}

// n values from `data` (any alignment) to `out`. n is a multiple of block_values.
void dequantise_row(TensorType type, const std::byte* data, float* out, int64_t n);

}  // namespace retort
