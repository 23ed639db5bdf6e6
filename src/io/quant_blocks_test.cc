#include "io/quant_blocks.h"

#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "base/half.h"

namespace retort {
namespace {

// Blocks made by hand; random blocks of every type are compared bit for bit in tests/oracles/io_oracle.py.
std::vector<std::byte> block(TensorType type) {
  return std::vector<std::byte>(static_cast<size_t>(tensor_type_info(type).block_bytes));
}

void put_f16(std::vector<std::byte>& b, size_t at, float value) {
  const uint16_t half = float_to_f16(value);
  std::memcpy(b.data() + at, &half, sizeof half);
}

std::vector<float> decode(TensorType type, const std::vector<std::byte>& b) {
  std::vector<float> out(static_cast<size_t>(tensor_type_info(type).block_values));
  dequantise_row(type, b.data(), out.data(), static_cast<int64_t>(out.size()));
  return out;
}

TEST(QuantBlocks, Q4_1) {
  auto b = block(TensorType::kQ4_1);
  put_f16(b, 0, 0.5f);
  put_f16(b, 2, -1.0f);
  b[4] = std::byte{0xf3};
  const auto x = decode(TensorType::kQ4_1, b);
  EXPECT_EQ(x[0], 0.5f * 3 - 1);
  EXPECT_EQ(x[16], 0.5f * 15 - 1);
  EXPECT_EQ(x[1], -1.0f);
}

TEST(QuantBlocks, Q5_0TakesTheFifthBit) {
  auto b = block(TensorType::kQ5_0);
  put_f16(b, 0, 2.0f);
  b[2] = std::byte{1};  // value 0
  b[4] = std::byte{1};  // value 16
  b[6] = std::byte{0x21};
  const auto x = decode(TensorType::kQ5_0, b);
  EXPECT_EQ(x[0], 2.0f * (1 + 16 - 16));
  EXPECT_EQ(x[16], 2.0f * (2 + 16 - 16));
  EXPECT_EQ(x[1], -32.0f);
}

TEST(QuantBlocks, Q4_KSplitsTheHighScales) {
  auto b = block(TensorType::kQ4_K);
  put_f16(b, 0, 1.0f);
  put_f16(b, 2, 0.5f);
  b[4] = std::byte{(2 << 6) | 5};  // scale of group 0 is 5; high bits of group 4's scale are 2
  b[8] = std::byte{(1 << 6) | 3};  // offset of group 0 is 3; high bits of group 4's offset are 1
  b[12] = std::byte{0x49};         // low bits of group 4: scale 9, offset 4
  b[16] = std::byte{7};
  b[16 + 64] = std::byte{6};
  const auto x = decode(TensorType::kQ4_K, b);
  EXPECT_EQ(x[0], 5.0f * 7 - 0.5f * 3);
  EXPECT_EQ(x[128], (2 * 16 + 9) * 6.0f - 0.5f * (16 + 4));
}

TEST(QuantBlocks, NamesAndIds) {
  for (const TensorTypeInfo& t : kTensorTypes) {
    EXPECT_EQ(tensor_type_from_id(static_cast<uint32_t>(t.type)), t.type);
    EXPECT_EQ(row_bytes(t.type, 2 * t.block_values), 2 * t.block_bytes);
  }
  EXPECT_FALSE(tensor_type_from_id(10));
  EXPECT_STREQ(unsupported_type_name(10), "Q2_K");
}

}  // namespace
}  // namespace retort
