#include "train/head_matrices.h"

#include <cmath>

#include <gtest/gtest.h>

#include "mixers/attention.h"

namespace retort::train {
namespace {

ModelConfig student_of(const std::vector<std::vector<Part>>& plan) {
  ModelConfig c;
  c.layers = int(plan.size()), c.heads = 4, c.kv_heads = 2, c.head_dim = 4;
  for (const auto& parts : plan) c.plan.push_back({parts});
  return c;
}

Part part(const std::string& mixer, std::vector<int> heads = {0, 1}) {
  Part out;
  out.mixer = mixer, out.kv_heads = std::move(heads);
  return out;
}

TEST(HeadMatrices, RowsOfCellsKeepTheirSums) {
  for (const int64_t tokens : {1, 5, 64, 65, 100, 256}) {
    std::vector<float> matrix(size_t(tokens * (tokens + 3)));
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t s = 0; s <= t; ++s) matrix[size_t(t * (tokens + 3) + s)] = 1.0f / float(t + 1);
      for (int64_t s = t + 1; s < tokens; ++s) matrix[size_t(t * (tokens + 3) + s)] = 1e9f;  // above the diagonal: not looked at
    }
    const MatrixPicture small = picture(matrix.data(), tokens, tokens + 3);
    EXPECT_LE(small.size, kMatrixSize);
    EXPECT_GE(small.size, std::min<int64_t>(tokens, 33));
    for (int i = 0; i < small.size; ++i) {
      double sum = 0;
      for (int j = 0; j < small.size; ++j) sum += small.cells[size_t(i * small.size + j)];
      EXPECT_NEAR(sum, 1, 1e-6) << tokens << " " << i;
    }
  }
}

TEST(HeadMatrices, ACellIsTheWeightOfItsKeysMeanOverItsQueries) {
  std::vector<float> matrix(256 * 256);
  matrix[size_t(9 * 256 + 6)] = 0.5f;   // queries 8 to 11, keys 4 to 7
  matrix[size_t(10 * 256 + 4)] = -1.5f;
  const MatrixPicture small = picture(matrix.data(), 256, 256);
  ASSERT_EQ(small.size, 64);
  for (int i = 0; i < 64 * 64; ++i) EXPECT_DOUBLE_EQ(small.cells[size_t(i)], i == 2 * 64 + 1 ? -0.25 : 0);
}

TEST(HeadMatrices, AreWrittenInTwoDigitsACell) {
  HeadMatrices head{7, 2, "gla", 64, 0.25, {2, {2, 0, 0.5, -0.125}}, {2, {0, 0, 0, 0}}, ""};
  const auto json = matrices_json({head}, 8);
  EXPECT_EQ(json["tokens"], 8);
  EXPECT_EQ(json["size"], 2);
  EXPECT_EQ(json["heads"][0]["teacher"]["largest"], 2.0);
  EXPECT_EQ(json["heads"][0]["teacher"]["cells"], "ffc060");  // 128 + 127, 128 + 127 / 2, 128 - 127 / 4
  EXPECT_EQ(json["heads"][0]["student"]["cells"], "808080");
  head.absent = "none";
  EXPECT_FALSE(matrices_json({head}, 8)["heads"][0].contains("teacher"));
}

TEST(HeadMatrices, HeadsAreSpreadOverWhatIsNotAttention) {
  std::vector<std::vector<Part>> plan(30, {part("gla")});
  plan[0] = {part(Attention::kName)};
  plan[29] = {part("slots", {1}), part(Attention::kName, {0})};
  const auto chosen = choose_heads(student_of(plan));
  ASSERT_EQ(chosen.size(), 8u);
  EXPECT_EQ(chosen[0].layer, 1);
  EXPECT_EQ(chosen[7].layer, 29);
  EXPECT_EQ(chosen[7].part, 0);
  EXPECT_EQ(chosen[0].head, 0);
  EXPECT_EQ(chosen[1].head, 3) << "the last query head of two kv heads";
  EXPECT_EQ(chosen[7].head, 1) << "of one kv head";
  EXPECT_TRUE(choose_heads(student_of({{part(Attention::kName)}})).empty());
}

}  // namespace
}  // namespace retort::train
