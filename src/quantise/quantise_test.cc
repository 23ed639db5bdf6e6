#include "quantise/quantise.h"

#include <gtest/gtest.h>

#include "eval/divergence.h"
#include "io/tokenizer_files.h"
#include "quantise/calibrate.h"
#include "support/tiny_model.h"
#include "test_files.h"

namespace retort {
namespace {

ModelConfig student() {
  ModelConfig c = test::tiny_config();
  c.width = 64, c.heads = 4, c.kv_heads = 2, c.head_dim = 32, c.mlp_width = 96;
  const std::vector<int> all = {0, 1};
  const auto none = nlohmann::json::object();
  c.plan = {{{Part{"slots", all, {8, 2}, {{"slots", 16}}}}}, {{Part{"mamba2", {0}, {}, none}, Part{"hedgehog", {1}, {4, 0}, none}}}, {{Part{"attention", all, {}, none}}}};
  EXPECT_TRUE(validate_plan(c).ok());
  return c;
}

struct Opened {
  ModelFiles files;
  std::shared_ptr<const Model> model;
};

Opened open(const std::string& path, ThreadPool& pool) {
  auto files = open_model(path);
  EXPECT_TRUE(files.ok()) << files.error().message;
  auto model = Model::load(*files, WeightFormat::kAuto, pool);
  EXPECT_TRUE(model.ok()) << model.error().message;
  return {std::move(*files), std::move(*model)};
}

std::vector<int> text(int count) {
  std::vector<int> tokens;
  for (int i = 0; i < count; ++i) tokens.push_back((i * 37 + i / 5 * 11) % 256);
  return tokens;
}

TEST(Quantise, EveryMatrixIsRoundedByItsInputsAndTheFileReadsBack) {
  const test::TempFolder folder;
  ThreadPool pool(2);
  for (const bool plain : {false, true}) {
    SCOPED_TRACE(plain);
    ModelConfig config = student();
    if (plain) config.plan = attention_plan(config);
    const std::string name = folder / (plain ? "teacher" : "student");
    ASSERT_TRUE(test::write_random_model(name, config).ok());
    const Opened before = open(name, pool);
    Engine engine(before.model, pool);
    for (const auto& [type, most] : {std::pair{TensorType::kQ8_0, 0.02}, {TensorType::kQ4_1, 0.6}, {TensorType::kQ4_0, 0.9}}) {
      SCOPED_TRACE(tensor_type_name(type));
      const auto rounded = calibrate(before.files, text(300), {type, 100, {}}, pool);
      ASSERT_TRUE(rounded.ok()) << rounded.error().message;
      const std::string out = folder / (std::string(tensor_type_name(type)) + (plain ? "p.gguf" : "s.gguf"));
      const auto tokenizer = load_tokenizer(name);
      ASSERT_TRUE(tokenizer.ok());
      const auto report = quantise_model(out, before.files, {type, &**rounded, *tokenizer, {}}, pool);
      ASSERT_TRUE(report.ok()) << report.error().message;
      EXPECT_EQ(report->format, plain ? "llama" : "retort");
      const Opened after = open(out, pool);
      EXPECT_EQ(fingerprint(after.files.config), fingerprint(config));
      int calibrated = 0;
      for (const TensorSpec& spec : model_tensors(config)) {
        SCOPED_TRACE(spec.name);
        const bool matrix = spec.floor == Precision::kQuantised, head = spec.name == "model.embed_tokens.weight", map = spec.shape.size() == 3;
        const TensorView view = *after.files.weights->tensor(spec.name);
        EXPECT_EQ(view.type, !matrix ? TensorType::kF32 : head || map ? TensorType::kQ8_0 : type);
        const TensorView* ours = (*rounded)->rounded(spec.name);
        ASSERT_EQ(ours != nullptr, matrix && !head);
        if (!ours) continue;
        calibrated += ours->type != TensorType::kQ8_0;
        EXPECT_EQ(*read_f32(view), *read_f32(*ours));  // whatever order the file has its rows in
      }
      EXPECT_EQ(report->calibrated, calibrated);
      Engine reader(after.model, pool);
      const auto d = divergence(engine, reader, text(200), 100);
      ASSERT_TRUE(d.ok());
      EXPECT_EQ(d->tokens, 198);
      EXPECT_GT(d->kl_mean, 0);
      EXPECT_LT(d->kl_mean, most);
    }
  }
}

TEST(Quantise, CalibrationIsCloserThanTheNearest) {
  const test::TempFolder folder;
  ThreadPool pool(2);
  ASSERT_TRUE(test::write_random_model(folder / "m", student()).ok());
  const Opened before = open(folder / "m", pool);
  Engine engine(before.model, pool);
  const auto rounded = calibrate(before.files, text(2000), {TensorType::kQ4_1, 100, {}}, pool);
  ASSERT_TRUE(rounded.ok());
  double kl[2];
  for (const bool calibrated : {false, true}) {
    const std::string out = folder / (calibrated ? "calibrated.gguf" : "nearest.gguf");
    QuantiseOptions options;
    if (calibrated) options.rounded = &**rounded;
    options.tokenizer = *load_tokenizer(folder / "m");
    ASSERT_TRUE(quantise_model(out, before.files, options, pool).ok());
    const Opened after = open(out, pool);
    Engine reader(after.model, pool);
    std::vector<int> other = text(2400);
    other.erase(other.begin(), other.begin() + 2000);
    const auto d = divergence(engine, reader, other, 100);
    ASSERT_TRUE(d.ok());
    kl[calibrated] = d->kl_mean;
  }
  EXPECT_LT(kl[true], 0.7 * kl[false]) << kl[true] << " and " << kl[false];
}

TEST(Quantise, CalibrationStopsWhenToldAndRefusesOtherTokens) {
  const test::TempFolder folder;
  ThreadPool pool(1);
  ASSERT_TRUE(test::write_random_model(folder / "m", student()).ok());
  const Opened before = open(folder / "m", pool);
  const auto stopped = calibrate(before.files, text(100), {TensorType::kQ4_1, 100, [](int layer) { return layer < 1; }}, pool);
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, ErrorCode::kInterrupted);
  const std::vector<int> outside = {1, 2, 260};
  EXPECT_FALSE(calibrate(before.files, outside, {}, pool).ok());
}

TEST(Quantise, NothingIsLeftOfOneThatWasStopped) {
  const test::TempFolder folder;
  ThreadPool pool(1);
  ASSERT_TRUE(test::write_random_model(folder / "m", student()).ok());
  const Opened before = open(folder / "m", pool);
  QuantiseOptions options;
  options.progress = [](int64_t done, int64_t, const std::string&) { return done < 5; };
  const auto report = quantise_model(folder / "out.gguf", before.files, options, pool);
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kInterrupted);
  EXPECT_FALSE(std::filesystem::exists(folder / "out.gguf"));
}

}  // namespace
}  // namespace retort
