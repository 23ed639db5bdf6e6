// retort quantize on a tiny student, through the program's own frame.
#include <gtest/gtest.h>

#include <filesystem>

#include "io/model_files.h"
#include "run_cli.h"
#include "support/tiny_model.h"
#include "test_files.h"

namespace retort::cli {
namespace {

class QuantizeCommand : public testing::Test {
 protected:
  void SetUp() override {
    ModelConfig c = test::tiny_config();
    c.width = 64, c.head_dim = 32, c.mlp_width = 96;
    c.plan = attention_plan(c);
    c.plan[0].parts = {Part{"slots", {0, 1}, {8, 2}, {{"slots", 16}}}};
    ASSERT_TRUE(validate_plan(c).ok());
    ASSERT_TRUE(test::write_random_model(model_, c).ok());
    test::write_file(letters_, letters());
    std::string digits;
    for (int i = 0; i < 400; ++i) digits += std::to_string(i * i);
    test::write_file(digits_, digits);
  }
  static std::string letters() {
    std::string text;
    for (int i = 0; i < 1200; ++i) text += char('a' + (i * 7 + i / 11) % 26);
    return text;
  }
  nlohmann::json quantize(std::vector<std::string> more) {
    std::vector<std::string> arguments{"quantize", model_, "--out", out_, "--ctx-size", "64", "--calibration-tokens", "512", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.code == 0 ? nlohmann::json::parse(outcome.out) : nlohmann::json();
  }
  std::string written() const { return test::read_file(out_); }

  test::TempFolder folder_;
  const std::string model_ = folder_ / "model", out_ = folder_ / "out.gguf", letters_ = folder_ / "letters.txt", digits_ = folder_ / "digits.txt";
};

TEST_F(QuantizeCommand, SaysWhatAWeightTakes) {
  const auto said = quantize({"--data", letters_});
  const auto files = open_model(out_);
  ASSERT_TRUE(files.ok());
  int64_t weights = 0;
  for (const TensorSpec& spec : model_tensors(files->config)) weights += spec.count();
  EXPECT_DOUBLE_EQ(said.at("bits_per_weight").get<double>(), 8 * double(std::filesystem::file_size(out_)) / double(weights));
  EXPECT_EQ(files->weights->tensor("model.layers.0.mixer.write.weight")->type, TensorType::kQ8_0);
  EXPECT_EQ(files->weights->tensor("model.layers.0.mixer.q_proj.weight")->type, TensorType::kQ4_1);
}

// The first file alone has enough, and is not all that is read.
TEST_F(QuantizeCommand, CalibratesOnAllFiles) {
  quantize({"--data", letters_});
  const std::string one = written();
  quantize({"--data", letters_});
  EXPECT_EQ(written(), one);
  quantize({"--data", letters_, digits_});
  EXPECT_NE(written(), one);
}

TEST_F(QuantizeCommand, EightBitsNeedNoCalibration) {
  const auto said = quantize({"--bits", "8", "--data", letters_});
  EXPECT_EQ(said.at("calibrated_matrices"), 0);
  EXPECT_EQ(said.at("type"), "q8_0");
}

}  // namespace
}  // namespace retort::cli
