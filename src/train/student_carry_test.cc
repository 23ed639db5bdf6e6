// A student from another student: what is copied, and that mixers in the place of attention start from that attention as it has become.
#include "train/student_carry.h"

#include <gtest/gtest.h>

#include "mixers/list.h"
#include "support/tiny_model.h"
#include "test_files.h"
#include "train/student_plan.h"
#include "train/student_start.h"

namespace retort::train {
namespace {

constexpr int kCarrySeq = 48;

class StudentCarryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(retort::test::write_random_model(folder_ / "teacher", retort::test::tiny_config()).ok());
    auto files = open_model(folder_ / "teacher");
    ASSERT_TRUE(files.ok());
    files_ = std::make_unique<ModelFiles>(std::move(*files));
    auto teacher = load_model(*files_, Numeric::kExact);
    ASSERT_TRUE(teacher.ok());
    teacher_ = std::move(*teacher);
    batch_.rows = 2, batch_.seq = kCarrySeq, batch_.starts = {0, kCarrySeq};
    for (int i = 0; i < 2 * kCarrySeq; ++i) batch_.tokens.push_back((i * 37 + i / 7) % 256);
  }

  // The teacher with a trained look: all of its attention is another.
  TorchModel trained() {
    TorchModel model = teacher_;
    torch::manual_seed(6);
    for (auto& layer : model.layers) {
      for (at::Tensor& value : layer[0].values) {
        if (value.defined()) value = value + 0.3 * value.std() * torch::randn(value.sizes());
      }
    }
    return model;
  }
  // A hybrid of this mixer that keeps attention in these layers and heads.
  ModelConfig config_of(const std::string& mixer, WindowConfig window, const std::vector<std::pair<int, int>>& kept) {
    ModelConfig config = teacher_.config;
    for (auto& layer : config.plan) layer.parts[0].mixer = mixer, layer.parts[0].config = nlohmann::json::object(), layer.parts[0].window = window;
    EXPECT_TRUE(validate_plan(config).ok());
    auto hybrid = hybrid_student(config, kept);
    EXPECT_TRUE(hybrid.ok()) << hybrid.error().message;
    return *hybrid;
  }
  Status carry(const TorchModel& before, const ModelConfig& config, std::vector<std::vector<PartWeights>>& parts, bool starts = true) {
    const auto own = attention_weights(before);
    Carry carry{before, "before", *own, before.layers};
    carry.starts = starts;
    carry.teachers = [&](int layer, PartWeights& part) { return fill_start(*files_->weights, teacher_.config, layer, 0, part); };
    carry.text = [this](int, int) -> Result<Batch> { return batch_; };
    carry.seed = 7;
    parts = empty_parts(config);
    return carry_over(carry, config, pool_, parts);
  }
  TorchModel good(const TorchModel& before, const ModelConfig& config) {
    TorchModel out = before;
    out.config = config;
    const Status status = carry(before, config, out.layers);
    EXPECT_TRUE(status.ok()) << status.error().message;
    return out;
  }
  at::Tensor hidden(const TorchModel& model) const {
    const at::NoGradGuard no_grad;
    return run_model(model, {batch_.tokens.data(), kCarrySeq}, batch_rows(model, batch_, 0, 1));
  }
  static double error(const at::Tensor& a, const at::Tensor& b) { return ((a - b).norm() / b.norm()).item<double>(); }
  static bool equal(const PartWeights& a, const PartWeights& b) {
    for (size_t i = 0; i < a.values.size(); ++i) {
      if (a.values[i].defined() != b.values[i].defined() || (a.values[i].defined() && !at::equal(a.values[i], b.values[i]))) return false;
    }
    return a.part == b.part;
  }

  retort::test::TempFolder folder_;
  std::unique_ptr<ModelFiles> files_;
  TorchModel teacher_;
  Batch batch_;
  ThreadPool pool_{1};
};

// Windows over the whole text in the place of trained attention: the model says what it said. So it is the attention as trained that they copy.
TEST_F(StudentCarryTest, MixersStartFromAttentionAsItHasBecome) {
  const TorchModel before = trained();
  EXPECT_GT(error(hidden(before), hidden(teacher_)), 1e-2);
  for (const char* mixer : {"slots", "gla", "mamba2", "rwkv7"}) {
    const WindowConfig all{kCarrySeq + 1, 0};
    const TorchModel some = good(before, config_of(mixer, all, {{1, -1}}));
    EXPECT_LT(error(hidden(some), hidden(before)), 1e-5) << mixer;
    EXPECT_TRUE(equal(some.layers[1][0], before.layers[1][0])) << "attention that stays is copied";
    const TorchModel heads = good(before, config_of(mixer, all, {{1, 0}, {2, -1}}));
    EXPECT_LT(error(hidden(heads), hidden(before)), 1e-5) << mixer << ", some heads";
    const TorchModel none = good(some, config_of(mixer, all, {}));
    EXPECT_LT(error(hidden(none), hidden(before)), 1e-5) << mixer << ", the second step";
    for (const int l : {0, 2}) EXPECT_TRUE(equal(none.layers[size_t(l)][0], some.layers[size_t(l)][0])) << "mixers carry their weights";
  }
}

TEST_F(StudentCarryTest, AttentionThatWasReplacedIsTheTeachersAgain) {
  const WindowConfig window{8, 2};
  const TorchModel before = good(trained(), config_of("gla", window, {}));
  const TorchModel after = good(before, config_of("gla", window, {{0, 1}, {2, -1}}));
  EXPECT_TRUE(equal(after.layers[2][0], teacher_.layers[2][0]));
  EXPECT_TRUE(equal(after.layers[1][0], before.layers[1][0]));
  ASSERT_EQ(after.layers[0].size(), 2u);
  PartWeights cut = after.layers[0][0];
  ASSERT_TRUE(fill_from(before.layers[0][0], cut).ok());
  EXPECT_TRUE(equal(after.layers[0][0], cut)) << "the heads that stay with the mixer";
}

TEST_F(StudentCarryTest, WhatIsNeitherThereNorAttentionIsRefused) {
  const WindowConfig window{8, 2};
  const TorchModel gla = good(teacher_, config_of("gla", window, {{0, 1}}));
  std::vector<std::vector<PartWeights>> parts;
  const Status other = carry(gla, config_of("retnet", window, {}), parts);
  ASSERT_FALSE(other.ok());
  EXPECT_EQ(other.error().message.find("before: layer 0 is not mixer 'retnet' with window 8"), 0u) << other.error().message;
  EXPECT_NE(other.error().message.find("it is gla over kv heads 0, attention over kv heads 1"), std::string::npos) << other.error().message;
  const Status heads = carry(gla, config_of("gla", window, {}), parts);
  ASSERT_FALSE(heads.ok()) << "half a layer has no place for the other half's values";
  EXPECT_NE(heads.error().message.find("over all heads"), std::string::npos);
  const Status draft = carry(teacher_, config_of("gla", window, {}), parts, false);
  ASSERT_FALSE(draft.ok());
  EXPECT_NE(draft.error().message.find("it is attention over kv heads 0,1"), std::string::npos) << draft.error().message;
}

}  // namespace
}  // namespace retort::train
