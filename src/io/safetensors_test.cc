#include "io/safetensors.h"

#include <gtest/gtest.h>

#include "base/half.h"
#include "test_files.h"

namespace retort {
namespace {

std::string file_of(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + header + data;
}

Result<SafetensorsFile> parse(const std::string& bytes) {
  const auto* data = reinterpret_cast<const std::byte*>(bytes.data());
  return SafetensorsFile::parse(MappedFile::from_bytes({data, data + bytes.size()}, "x.safetensors"));
}

std::string refusal(const std::string& header, const std::string& data = "12345678") {
  const auto file = parse(file_of(header, data));
  if (file.ok()) return "";
  EXPECT_EQ(file.error().code, ErrorCode::kInvalidInput);
  return file.error().message;
}

#define EXPECT_REFUSED(text, ...) EXPECT_NE(refusal(__VA_ARGS__).find(text), std::string::npos) << refusal(__VA_ARGS__)

constexpr const char* kGood =
    R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"BF16","shape":[2,1],"data_offsets":[4,8]}})";

TEST(Safetensors, Reads) {
  const auto file = parse(file_of(kGood, "12345678"));
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->metadata().at("format"), "pt");
  EXPECT_EQ(file->tensors().at("b").shape, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(file->tensors().at("b").weight_type(), TensorType::kBF16);
  EXPECT_EQ(static_cast<char>(file->tensors().at("b").bytes[0]), '5');
}

TEST(Safetensors, CutAnywhereIsRefused) {
  const std::string whole = file_of(kGood, "12345678");
  for (size_t n = 0; n < whole.size(); ++n) EXPECT_FALSE(parse(whole.substr(0, n)).ok()) << "cut to " << n;
}

TEST(Safetensors, FlippedBitsNeverCrash) {
  const std::string whole = file_of(kGood, "12345678");
  for (size_t i = 0; i < whole.size() * 8; ++i) {
    std::string broken = whole;
    broken[i / 8] = static_cast<char>(broken[i / 8] ^ (1 << i % 8));
    (void)parse(broken).ok();
  }
}

TEST(Safetensors, Lies) {
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  EXPECT_REFUSED("ends at byte", one("F32", "[4]", "[0,16]"));
  EXPECT_REFUSED("8 bytes; its shape", one("F32", "[4]", "[0,8]"));
  EXPECT_REFUSED("unknown dtype", one("F99", "[2]", "[0,8]"));
  EXPECT_REFUSED("larger than any memory", one("F32", "[4294967296,4294967296,4294967296]", "[0,8]"));
  EXPECT_REFUSED("larger than any memory", one("F32", "[18446744073709551615]", "[0,8]"));
  EXPECT_REFUSED("shape holds", one("F32", "[-1]", "[0,8]"));
  EXPECT_REFUSED("data_offsets", one("F32", "[2]", "[8,0]"));
  EXPECT_REFUSED("data_offsets", one("F32", "[2]", "[0]"));
  EXPECT_REFUSED("belong to no tensor", one("F32", "[1]", "[4,8]"));
  EXPECT_REFUSED("cover 4 of 8", one("F32", "[1]", "[0,4]"));
  EXPECT_REFUSED(
      "overlaps",
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})");
  EXPECT_REFUSED(
      "appears twice",
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})");
  EXPECT_REFUSED("expected an object", R"({"a":[1]})");
  EXPECT_REFUSED("expected a JSON object", "[]");
  EXPECT_REFUSED("not valid JSON", "{");
  EXPECT_REFUSED("nested deeper", "{\"a\":" + std::string(100000, '['));
  const uint64_t huge = ~uint64_t{0};
  EXPECT_FALSE(parse(std::string(reinterpret_cast<const char*>(&huge), sizeof huge)).ok());
}

TEST(Safetensors, OtherDtypesAreListedButNoWeights) {
  const auto file = parse(file_of(R"({"a":{"dtype":"I8","shape":[8],"data_offsets":[0,8]}})", "12345678"));
  ASSERT_TRUE(file.ok());
  EXPECT_FALSE(file->tensors().at("a").weight_type());
}

TEST(Safetensors, WriterRoundTrip) {
  const test::TempFolder folder;
  const std::vector<float> values = {1.0f, -2.5f, 3.14159265f};
  const auto give = [&]() -> Result<std::vector<float>> { return values; };
  ASSERT_TRUE(
      write_safetensors(folder / "x.safetensors", {SafeTensorSource::from_f32("b", {3}, TensorType::kBF16, give),
                                                   SafeTensorSource::from_f32("h", {1, 3}, TensorType::kF16, give),
                                                   SafeTensorSource::from_f32("f", {3, 1}, TensorType::kF32, give)})
          .ok());
  const auto file = SafetensorsFile::open(folder / "x.safetensors");
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file->metadata().at("format"), "pt");
  const auto read = [&](const char* name) {
    const SafeTensor& t = file->tensors().at(name);
    std::vector<float> out(3);
    dequantise_row(*t.weight_type(), t.bytes.data(), out.data(), 3);
    return out;
  };
  EXPECT_EQ(read("f"), values);
  EXPECT_EQ(read("b")[2], bf16_to_float(float_to_bf16(values[2])));
  EXPECT_EQ(read("h")[2], f16_to_float(float_to_f16(values[2])));
  // Wide elements come first, so the f32 tensor starts at a multiple of four.
  EXPECT_EQ(reinterpret_cast<uintptr_t>(file->tensors().at("f").bytes.data()) % 4, 0u);
}

TEST(Safetensors, FailingSourceLeavesNothing) {
  const test::TempFolder folder;
  const auto fail = []() -> Result<std::vector<float>> { return invalid("no"); };
  EXPECT_FALSE(write_safetensors(folder / "x", {SafeTensorSource::from_f32("a", {3}, TensorType::kF32, fail)}).ok());
  EXPECT_TRUE(std::filesystem::is_empty(folder.str()));
}

}  // namespace
}  // namespace retort
