#include "io/gguf.h"

#include <random>

#include <gtest/gtest.h>

#include "gguf_builder.h"
#include "io/gguf_config.h"

namespace retort {
namespace {

using test::GgufBuilder;
using test::tiny_gguf;

Result<GgufFile> parse(const std::string& bytes) {
  const auto* data = reinterpret_cast<const std::byte*>(bytes.data());
  return GgufFile::parse(MappedFile::from_bytes({data, data + bytes.size()}, "tiny.gguf"));
}

// The error's text; "" when it was read.
std::string refusal(const std::string& bytes) {
  const auto file = parse(bytes);
  if (file.ok()) return "";
  EXPECT_EQ(file.error().code, ErrorCode::kInvalidInput);
  EXPECT_EQ(file.error().message.find('\n'), std::string::npos);
  return file.error().message;
}

#define EXPECT_REFUSED(bytes, text) EXPECT_NE(refusal(bytes).find(text), std::string::npos) << refusal(bytes)

TEST(Gguf, ReadsMetadataAndTensors) {
  const auto file = parse(tiny_gguf().bytes());
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(*file->text("general.name"), "tiny");
  EXPECT_EQ(*file->integer("llama.embedding_length"), 32);
  EXPECT_EQ(*file->number("llama.rope.freq_base"), 10000.0);
  ASSERT_EQ(file->texts("tokenizer.ggml.tokens")->size(), 2u);
  EXPECT_EQ(file->texts("tokenizer.ggml.tokens")->at(1), "b");
  const GgufTensor* down = file->find_tensor("blk.0.ffn_down.weight");
  ASSERT_NE(down, nullptr);
  EXPECT_EQ(down->shape, (std::vector<int64_t>{32, 64}));
  EXPECT_EQ(down->bytes.size(), 32u * 64 * 4);
  float second = 0;
  std::memcpy(&second, down->bytes.data() + 4, 4);
  EXPECT_EQ(second, 0.01f);
  EXPECT_FALSE(file->find_tensor("nothing"));
}

TEST(Gguf, GettersNameTheKeyAndTheType) {
  const auto file = parse(tiny_gguf().bytes());
  ASSERT_TRUE(file.ok());
  EXPECT_NE(file->integer("llama.nothing").error().message.find("'llama.nothing' is missing"), std::string::npos);
  EXPECT_NE(file->integer("general.name").error().message.find("holds text; expected an integer"), std::string::npos);
  EXPECT_NE(file->text("tokenizer.ggml.tokens").error().message.find("is an array"), std::string::npos);
  EXPECT_NE(file->integers("tokenizer.ggml.tokens").error().message.find("holds text"), std::string::npos);
  EXPECT_EQ(*file->integer_or("llama.nothing", 7), 7);
  EXPECT_FALSE(file->integer_or("general.name", 7).ok());
}

TEST(Gguf, CutAnywhereIsRefused) {
  const std::string whole = tiny_gguf().bytes();
  for (size_t n = 0; n < whole.size(); ++n) {
    // Only the zeros that pad the table may be missing without a tensor losing bytes; the last tensor ends the file.
    EXPECT_NE(refusal(whole.substr(0, n)), "") << "cut to " << n << " of " << whole.size();
  }
}

TEST(Gguf, FlippedBytesNeverCrash) {
  const std::string whole = tiny_gguf().bytes();
  std::mt19937 random(1);
  const size_t table = 1400;  // past it lie only weights
  for (size_t i = 0; i < table; ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string broken = whole;
      broken[i] = static_cast<char>(broken[i] ^ (1 << bit));
      const auto file = parse(broken);
      if (file.ok()) (void)config_from_gguf(*file).ok();
    }
  }
}

TEST(Gguf, HeaderLies) {
  EXPECT_REFUSED("GGML" + tiny_gguf().bytes().substr(4), "not a GGUF file");
  auto b = tiny_gguf();
  b.version = 1;
  EXPECT_REFUSED(b.bytes(), "version 1");
  b.version = 0x03000000;
  EXPECT_REFUSED(b.bytes(), "big-endian");
  b = tiny_gguf();
  b.claim_pairs = int64_t{1} << 60;
  EXPECT_REFUSED(b.bytes(), "metadata keys");
  b = tiny_gguf();
  b.claim_tensors = int64_t{1} << 60;
  EXPECT_REFUSED(b.bytes(), "tensors, more than");
}

TEST(Gguf, MetadataLies) {
  const auto with = [](const std::string& key, uint32_t kind, const std::string& value) {
    auto b = tiny_gguf();
    b.pair(key, kind, value);
    return b.bytes();
  };
  using B = GgufBuilder;
  EXPECT_REFUSED(with("x", 77, ""), "unknown kind 77");
  EXPECT_REFUSED(with("x", 9, B::raw<uint32_t>(4) + B::raw<uint64_t>(uint64_t{1} << 62)), "do not fit");
  EXPECT_REFUSED(with("x", 9, B::raw<uint32_t>(8) + B::raw<uint64_t>(uint64_t{1} << 62)), "do not fit");
  EXPECT_REFUSED(with("x", 9, B::raw<uint32_t>(9) + B::raw<uint64_t>(1)), "array of arrays");
  EXPECT_REFUSED(with("x", 8, B::raw<uint64_t>(~uint64_t{0})), "cut short");
  EXPECT_REFUSED(with("general.name", 8, B::string("again")), "appears twice");
  EXPECT_REFUSED(with("general.alignment", 4, B::raw<uint32_t>(24)), "power of two");
  EXPECT_REFUSED(with("general.alignment", 4, B::raw<uint32_t>(0)), "power of two");
}

TEST(Gguf, TensorLies) {
  const auto with = [](auto&& change) {
    auto b = tiny_gguf();
    change(b.tensors[2]);  // blk.0.attn_q.weight
    return b.bytes();
  };
  using T = GgufBuilder::Tensor;
  EXPECT_REFUSED(with([](T& t) { t.offset = uint64_t{1} << 62; }), "lie outside the file");
  EXPECT_REFUSED(with([](T& t) { t.offset = ~uint64_t{0} - 31; }), "lie outside the file");
  EXPECT_REFUSED(with([](T& t) { t.offset += 4; }), "not a multiple of the alignment");
  EXPECT_REFUSED(with([](T& t) { t.offset += 32; }), "overlap");
  EXPECT_REFUSED(with([](T& t) { t.sizes[0] = uint64_t{1} << 40; }), "cannot fit");
  EXPECT_REFUSED(with([](T& t) { t.sizes = {uint64_t{1} << 32, uint64_t{1} << 32}; }), "cannot fit");
  EXPECT_REFUSED(with([](T& t) { t.sizes[1] = 0; }), "cannot fit");
  EXPECT_REFUSED(with([](T& t) { t.sizes = {}; }), "dimensions");
  EXPECT_REFUSED(with([](T& t) { t.sizes = {2, 2, 2, 2, 2}; }), "dimensions");
  EXPECT_REFUSED(with([](T& t) { t.type = 10; }), "Q2_K");
  EXPECT_REFUSED(with([](T& t) { t.type = 12; }), "Q4_K blocks of 256");
  EXPECT_REFUSED(with([](T& t) { t.name = "output_norm.weight"; }), "appears twice");
}

TEST(GgufConfig, ReadsTheThreeArchitectures) {
  for (const char* architecture : {"llama", "qwen2", "qwen3"}) {
    const auto file = parse(tiny_gguf(architecture).bytes());
    ASSERT_TRUE(file.ok()) << file.error().message;
    const auto config = config_from_gguf(*file);
    ASSERT_TRUE(config.ok()) << config.error().message;
    EXPECT_EQ(config->family, architecture);
    EXPECT_EQ(config->head_dim, 8);
    EXPECT_EQ(config->vocab_size, 16);
    EXPECT_EQ(config->qkv_bias, config->family == "qwen2");
    EXPECT_EQ(config->qk_norm, config->family == "qwen3");
    EXPECT_TRUE(config->tie_embeddings);
    EXPECT_EQ(config->eos_ids, std::vector<int>{2});
  }
}

TEST(GgufConfig, RefusesWhatItCannotCompute) {
  const auto refused = [](auto&& change) {
    auto b = tiny_gguf();
    change(b);
    const auto file = parse(b.bytes());
    EXPECT_TRUE(file.ok());
    const auto config = config_from_gguf(*file);
    return config.ok() ? std::string() : config.error().message;
  };
  EXPECT_NE(refused([](GgufBuilder& b) { b.u32("llama.rope.dimension_count", 4); }).find("rotate"), std::string::npos);
  EXPECT_NE(refused([](GgufBuilder& b) { b.text("llama.rope.scaling.type", "yarn"); }).find("yarn"), std::string::npos);
  EXPECT_NE(refused([](GgufBuilder& b) { b.u32("llama.expert_count", 8); }).find("experts"), std::string::npos);
  EXPECT_NE(refused([](GgufBuilder& b) {
              b.tensor("rope_freqs.weight", {4}, TensorType::kF32, test::f32_bytes({1, 2, 3, 4}));
            }).find("rope_freqs.weight[1]"),
            std::string::npos);
  EXPECT_NE(refused([](GgufBuilder& b) {
              b.tensor("blk.0.attn_output.bias", {32}, TensorType::kF32, std::string(128, '\0'));
            }).find("attn_output.bias"),
            std::string::npos);
}

TEST(GgufConfig, RecoversLlama3ScalingFromItsFactors) {
  RopeConfig scaled;
  scaled.scaling = RopeConfig::Scaling::kLlama3;
  scaled.factor = 32;
  scaled.high_freq_factor = 4;
  const auto plain = RopeConfig{}.frequencies(8), slow = scaled.frequencies(8);
  std::vector<float> factors;
  for (size_t i = 0; i < plain.size(); ++i) factors.push_back(static_cast<float>(plain[i] / slow[i]));
  // With base 10000 and heads of 8 the slowest pair turns every 6283 tokens: between 8192/4 and 8192, so the largest
  // factor is below 32 and the rule cannot be recovered; that must be an error and not a wrong model.
  auto b = tiny_gguf();
  b.tensor("rope_freqs.weight", {4}, TensorType::kF32, test::f32_bytes(factors));
  EXPECT_FALSE(config_from_gguf(*parse(b.bytes())).ok());

  auto wide = GgufBuilder();
  for (const auto& [key, value] : std::map<std::string, uint32_t>{{"block_count", 1},
                                                                  {"context_length", 128},
                                                                  {"embedding_length", 64},
                                                                  {"feed_forward_length", 64},
                                                                  {"attention.head_count", 1},
                                                                  {"attention.head_count_kv", 1}}) {
    wide.u32("llama." + key, value);
  }
  wide.text("general.architecture", "llama");
  wide.f32("llama.rope.freq_base", 500000.f);
  wide.f32("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  wide.tensor("token_embd.weight", {2, 64}, TensorType::kF32, std::string(512, '\0'));
  RopeConfig base;
  base.base = scaled.base = 500000;
  const auto fast = base.frequencies(64), llama3 = scaled.frequencies(64);
  factors.clear();
  for (size_t i = 0; i < fast.size(); ++i) factors.push_back(static_cast<float>(fast[i] / llama3[i]));
  wide.tensor("rope_freqs.weight", {32}, TensorType::kF32, test::f32_bytes(factors));
  const auto config = config_from_gguf(*parse(wide.bytes()));
  ASSERT_TRUE(config.ok()) << config.error().message;
  EXPECT_EQ(config->rope, scaled);
}

}  // namespace
}  // namespace retort
