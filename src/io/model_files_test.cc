#include "io/model_files.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "test_files.h"

namespace retort {
namespace {

TEST(ModelFiles, RealTeacher) {
  const std::string path = test::teacher_path();
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is not there (set RETORT_TEACHER)";
  const auto model = open_model(path);
  ASSERT_TRUE(model.ok()) << model.error().message;
  const ModelConfig& c = model->config;
  EXPECT_EQ(c.family, "llama");
  EXPECT_EQ(c.layers, 30);
  EXPECT_EQ(c.width, 576);
  EXPECT_EQ(c.heads, 9);
  EXPECT_EQ(c.kv_heads, 3);
  EXPECT_EQ(c.head_dim, 64);
  EXPECT_EQ(c.mlp_width, 1536);
  EXPECT_EQ(c.vocab_size, 49152);
  EXPECT_EQ(c.context_length, 8192);
  EXPECT_EQ(c.norm_eps, 1e-5f);
  EXPECT_EQ(c.rope.base, 100000.0);
  EXPECT_TRUE(c.tie_embeddings);
  EXPECT_EQ(c.bos_id, 1);
  EXPECT_EQ(c.eos_ids, std::vector<int>{2});
  EXPECT_TRUE(is_plain_transformer(c));
  EXPECT_EQ(model->weights->names().size(), 272u);
  const auto q = model->weights->tensor("model.layers.7.self_attn.q_proj.weight");
  ASSERT_TRUE(q.ok());
  EXPECT_EQ(q->type, TensorType::kQ4_1);
  EXPECT_EQ(q->shape, (std::vector<int64_t>{576, 576}));
}

TEST(ModelFiles, NoSuchPath) {
  const auto model = open_model("/nonexistent/model");
  ASSERT_FALSE(model.ok());
  EXPECT_EQ(model.error().code, ErrorCode::kInvalidInput);
}

}  // namespace
}  // namespace retort
