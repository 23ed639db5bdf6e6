// Where students start: what is copied, what is measured, what is cut, and how near a fresh layer is to the teacher's.
#include "train/student_start.h"

#include <csignal>
#include <map>

#include <gtest/gtest.h>

#include "base/interrupt.h"
#include "mixers/list.h"
#include "support/tiny_model.h"
#include "test_files.h"
#include "train/rank.h"

namespace retort::train {
namespace {

constexpr int kStartSeq = 48;

class StudentStartTest : public ::testing::Test {
 protected:
  void SetUp() override {
    open_teacher("teacher", retort::test::tiny_config());
    batch_.rows = 2, batch_.seq = kStartSeq;
    batch_.starts = {0, kStartSeq, kStartSeq + 20};
    for (int i = 0; i < 2 * kStartSeq; ++i) batch_.tokens.push_back((i * 37 + i / 7) % 256);
  }

  void open_teacher(const std::string& name, const ModelConfig& config) {
    ASSERT_TRUE(retort::test::write_random_model(folder_ / name, config).ok());
    auto files = open_model(folder_ / name);
    ASSERT_TRUE(files.ok()) << files.error().message;
    files_ = std::make_unique<ModelFiles>(std::move(*files));
    auto teacher = load_model(*files_, Numeric::kExact);
    ASSERT_TRUE(teacher.ok()) << teacher.error().message;
    teacher_ = std::make_unique<TorchModel>(std::move(*teacher));
  }

  // The student with this mixer in every layer.
  std::vector<std::vector<PartWeights>> start(const std::string& mixer, const nlohmann::json& fields = nlohmann::json::object(),
                                              WindowConfig window = {}) {
    ModelConfig config = teacher_->config;
    for (auto& layer : config.plan) layer.parts[0].mixer = mixer, layer.parts[0].config = fields, layer.parts[0].window = window;
    const Status valid = validate_plan(config);
    EXPECT_TRUE(valid.ok()) << valid.error().message;
    auto parts = empty_parts(config);
    for (int l = 0; l < config.layers; ++l) {
      const Status status = fill_start(*files_->weights, config, l, 7, parts[l][0]);
      EXPECT_TRUE(status.ok()) << status.error().message;
    }
    const Status status = start_from_data(*teacher_, teacher_->layers, batch_, 7, pool_, parts);
    EXPECT_TRUE(status.ok()) << status.error().message;
    return parts;
  }
  // As start(), but for what is copied: the projections of the layers, all heads, in every layer.
  std::vector<std::vector<PartWeights>> random(const std::string& mixer, uint64_t seed, const nlohmann::json& fields = nlohmann::json::object(),
                                               WindowConfig window = {}) {
    ModelConfig config = teacher_->config;
    for (auto& layer : config.plan) layer.parts[0].mixer = mixer, layer.parts[0].config = fields, layer.parts[0].window = window;
    EXPECT_TRUE(validate_plan(config).ok());
    auto parts = empty_parts(config);
    for (int l = 0; l < config.layers; ++l) {
      const Status status = fill_start(*files_->weights, config, l, seed, parts[l][0], StudentInit::kRandom);
      EXPECT_TRUE(status.ok()) << status.error().message;
    }
    return parts;
  }
  // The first layer's input, for the first row.
  at::Tensor input() const {
    const at::NoGradGuard no_grad;
    at::Tensor x;
    run_model(*teacher_, {batch_.tokens.data(), kStartSeq}, rows(), [&](const LayerView& view) { if (view.layer == 0) x = view.input; });
    return x;
  }
  Rows rows() const { return batch_rows(*teacher_, batch_, 0, 1); }
  at::Tensor output(const PartWeights& part, const at::Tensor& x) const {
    const at::NoGradGuard no_grad;
    return run_part(part, x, rows(), Numeric::kExact);
  }
  // Squared distance of a layer from the teacher's over the batch, in units of the teacher's squares: 1 for a layer that says nothing.
  double distance(const std::vector<std::vector<PartWeights>>& parts, int layer) const {
    const at::NoGradGuard no_grad;
    double error = 0, squares = 0;
    for (int r = 0; r < batch_.rows; ++r) {
      const Rows one = batch_rows(*teacher_, batch_, r, 1);
      run_model(*teacher_, {batch_.tokens.data() + r * kStartSeq, kStartSeq}, one, [&](const LayerView& view) {
        if (view.layer != layer) return;
        error += (run_part(parts[size_t(layer)][0], view.input, one, Numeric::kExact) - view.output).square().sum().item<double>();
        squares += view.output.square().sum().item<double>();
      });
    }
    return error / squares;
  }
  static double error(const at::Tensor& a, const at::Tensor& b) { return ((a - b).norm() / b.norm()).item<double>(); }
  static const at::Tensor& tensor(const PartWeights& part, const std::string& name) {
    for (size_t i = 0; i < part.table.size(); ++i) {
      if (part.table[i].name == name) return part.values[i];
    }
    ADD_FAILURE() << part.prefix << " has no " << name;
    return part.values[0];
  }

  retort::test::TempFolder folder_;
  std::unique_ptr<ModelFiles> files_;
  std::unique_ptr<TorchModel> teacher_;
  Batch batch_;
  ThreadPool pool_{1};
};

TEST_F(StudentStartTest, CtrlCEndsTheStart) {
  auto parts = start("slots");
  catch_interrupts();
  ::raise(SIGINT);
  const Status started = start_from_data(*teacher_, teacher_->layers, batch_, 7, pool_, parts);
  const auto ranked = measure_errors(*teacher_, parts, batch_, pool_);
  clear_interrupt();
  ASSERT_FALSE(started.ok());
  EXPECT_EQ(started.error().code, ErrorCode::kInterrupted);
  ASSERT_FALSE(ranked.ok());
  EXPECT_EQ(ranked.error().code, ErrorCode::kInterrupted);
  EXPECT_TRUE(measure_errors(*teacher_, parts, batch_, pool_).ok());
}

TEST_F(StudentStartTest, EveryMixerStartsFinite) {
  const at::Tensor x = input();
  for_each_mixer([&](auto tag) {
    using Mixer = typename decltype(tag)::type;
    for (WindowConfig window : {WindowConfig{}, WindowConfig{8, 2}}) {
      if (Mixer::kNeedsWindow && window.size == 0) continue;
      if (!Mixer::kNeedsWindow && !Mixer::kRecurrent && window.size > 0) continue;
      SCOPED_TRACE(cat(Mixer::kName, " window ", window.size));
      const auto parts = start(Mixer::kName, nlohmann::json::object(), window);
      const at::Tensor y = output(parts[0][0], x), teacher = output(teacher_->layers[0][0], x);
      EXPECT_TRUE(at::isfinite(y).all().item<bool>());
      // A window makes it the teacher's until tokens leave it.
      if (window.size > 0) {
        EXPECT_LT(error(y.narrow(0, 0, window.size), teacher.narrow(0, 0, window.size)), 1e-5);
        EXPECT_LT(error(y, teacher), 0.9);
      }
    }
  });
}

// A window longer than the text is the teacher's attention, with its biases (Qwen2) and its norms of q and k (Qwen3).
TEST_F(StudentStartTest, AWindowOverTheWholeTextIsTheTeachersLayer) {
  for (const char* family : {"llama", "qwen2", "qwen3"}) {
    ModelConfig config = retort::test::tiny_config();
    config.family = family;
    config.qkv_bias = config.family == "qwen2", config.qk_norm = config.family == "qwen3";
    ASSERT_NO_FATAL_FAILURE(open_teacher(family, config));
    ASSERT_EQ(teacher_->config.qkv_bias, config.qkv_bias);
    ASSERT_EQ(teacher_->config.qk_norm, config.qk_norm);
    const at::Tensor x = input(), want = output(teacher_->layers[0][0], x);
    for_each_mixer([&](auto tag) {
      using Mixer = typename decltype(tag)::type;
      if (!Mixer::kRecurrent && !Mixer::kNeedsWindow) return;
      const auto parts = start(Mixer::kName, nlohmann::json::object(), {kStartSeq + 1, 0});
      EXPECT_LT(error(output(parts[0][0], x), want), 1e-5) << Mixer::kName << " of " << family;
    });
  }
}

// Weights of 1 / sqrt(fan in), the output's smaller; nothing of the teacher's; another seed, other values.
TEST_F(StudentStartTest, RandomProjectionsHaveTheirScale) {
  const auto parts = random("gla", 7), again = random("gla", 7), other = random("gla", 8), copies = start("gla");
  const double width = teacher_->config.width, heads = 32, layers = teacher_->config.layers;
  for (const auto& [name, deviation] : std::map<std::string, double>{{"q_proj.weight", 1 / std::sqrt(width)}, {"k_proj.weight", 1 / std::sqrt(width)},
                                                                     {"v_proj.weight", 1 / std::sqrt(width)}, {"o_proj.weight", 1 / std::sqrt(heads * 2 * layers)}}) {
    const at::Tensor& values = tensor(parts[1][0], name);
    const double size = double(values.numel()), found = values.square().mean().sqrt().item<double>();
    EXPECT_NEAR(found / deviation, 1, 4 / std::sqrt(2 * size)) << name;
    EXPECT_NEAR(values.mean().item<double>() / deviation, 0, 4 / std::sqrt(size)) << name;
    EXPECT_TRUE(at::equal(values, tensor(again[1][0], name)));
    for (const at::Tensor& stranger : {tensor(other[1][0], name), tensor(parts[0][0], name), tensor(copies[1][0], name)}) {
      const double correlation = ((values * stranger).sum() / (values.norm() * stranger.norm())).item<double>();
      EXPECT_LT(std::abs(correlation), 5 / std::sqrt(size)) << name;
    }
  }
}

// Every mixer starts from one and the same random attention, its biases 0 and its norms 1: with a window over the whole text it is that layer. It
// is not the teacher's.
TEST_F(StudentStartTest, RandomMixersCopyOneRandomAttention) {
  for (const char* family : {"llama", "qwen2", "qwen3"}) {
    ModelConfig config = retort::test::tiny_config();
    config.family = family;
    config.qkv_bias = config.family == "qwen2", config.qk_norm = config.family == "qwen3";
    ASSERT_NO_FATAL_FAILURE(open_teacher(cat("random-", family), config));
    const auto attention = random("attention", 7);
    const at::Tensor x = input(), want = output(attention[0][0], x);
    EXPECT_GT(error(want, output(teacher_->layers[0][0], x)), 0.3);
    EXPECT_EQ(config.qkv_bias ? tensor(attention[0][0], "q_proj.bias").abs().max().item<double>() : 0, 0);
    EXPECT_EQ(config.qk_norm ? (tensor(attention[0][0], "k_norm.weight") - 1).abs().max().item<double>() : 0, 0);
    for_each_mixer([&](auto tag) {
      using Mixer = typename decltype(tag)::type;
      if (!Mixer::kRecurrent && !Mixer::kNeedsWindow) return;
      auto parts = random(Mixer::kName, 7, nlohmann::json::object(), {kStartSeq + 1, 0});
      ASSERT_TRUE(start_from_data(*teacher_, attention, batch_, 7, pool_, parts).ok());
      EXPECT_LT(error(output(parts[0][0], x), want), 1e-5) << Mixer::kName << " of " << family;
    });
  }
}

// What slots learn from text they learn from keys that the student has, not from the teacher's.
TEST_F(StudentStartTest, SlotsOfRandomKeysAreFittedToThem) {
  const nlohmann::json fields = {{"slots", 8}};
  const auto attention = random("attention", 7);
  auto own = random("slots", 7, fields, {8, 2}), teachers = random("slots", 7, fields, {8, 2});
  ASSERT_TRUE(start_from_data(*teacher_, attention, batch_, 7, pool_, own).ok());
  ASSERT_TRUE(start_from_data(*teacher_, teacher_->layers, batch_, 7, pool_, teachers).ok());
  bool differ = false;
  for (size_t i = 0; i < own[0][0].table.size(); ++i) {
    if (own[0][0].table[i].present() && own[0][0].table[i].group == TrainGroup::kFeature) differ |= !at::equal(own[0][0].values[i], teachers[0][0].values[i]);
  }
  EXPECT_TRUE(differ);
}

TEST_F(StudentStartTest, AStartThatIsNotFiniteIsRefused) {
  ModelConfig config = teacher_->config;
  for (auto& layer : config.plan) layer.parts[0].mixer = "gla", layer.parts[0].config = nlohmann::json::object();
  ASSERT_TRUE(validate_plan(config).ok());
  auto parts = empty_parts(config);
  for (auto& spec : parts[0][0].table) {
    if (spec.name == "gk_proj.1.bias") spec.init = {InitBlock::constant(-INFINITY)};
  }
  const Status filled = fill_start(*files_->weights, config, 0, 7, parts[0][0]);
  ASSERT_FALSE(filled.ok());
  EXPECT_NE(filled.error().message.find("mixer 'gla': the start of model.layers.0.mixer.gk_proj.1.bias is not finite"), std::string::npos)
      << filled.error().message;
  for (int l = 0; l < config.layers; ++l) {
    parts[l][0] = empty_parts(config)[l][0];
    ASSERT_TRUE(fill_start(*files_->weights, config, l, 7, parts[l][0]).ok());
  }
  tensor(parts[1][0], "gk_proj.1.bias").fill_(NAN);
  const Status started = start_from_data(*teacher_, teacher_->layers, batch_, 7, pool_, parts);
  ASSERT_FALSE(started.ok());
  EXPECT_NE(started.error().message.find("model.layers.1.mixer.gk_proj.1.bias"), std::string::npos) << started.error().message;
}

// No recurrence, alone or with a window, makes a fresh layer much worse than it is without one: a head keeps a tenth even where it points away.
TEST_F(StudentStartTest, NoMixerStartsLouderThanItIsOfUse) {
  const WindowConfig window{8, 2};
  const auto near = start("window", nlohmann::json::object(), window);
  for_each_mixer([&](auto tag) {
    using Mixer = typename decltype(tag)::type;
    if (!Mixer::kRecurrent) return;
    SCOPED_TRACE(Mixer::kName);
    const auto alone = start(Mixer::kName), joined = start(Mixer::kName, nlohmann::json::object(), window);
    for (int l = 0; l < teacher_->config.layers; ++l) {
      EXPECT_LT(distance(alone, l), 1.1) << "alone, layer " << l;
      EXPECT_LT(distance(joined, l), 1.1 * distance(near, l)) << "with a window, layer " << l;
    }
  });
}

// The norm takes the magnitude out of each head, and puts the teacher's back in. Of a joined part the join is turned down instead.
TEST_F(StudentStartTest, NormsStartAtTheTeachersHeadRms) {
  const WindowConfig window{8, 2};
  const auto begin = [&](const char* mixer) { return start(mixer, nlohmann::json::object(), window); };
  const auto parts = begin("hgrn2");
  const at::Tensor& weight = tensor(parts[1][0], "g_norm.weight");
  const at::NoGradGuard no_grad;
  at::Tensor squares = at::zeros({4}, at::kDouble);
  for (int r = 0; r < 2; ++r) {
    const Rows one = batch_rows(*teacher_, batch_, r, 1);
    at::Tensor x;
    run_model(*teacher_, {batch_.tokens.data() + r * kStartSeq, kStartSeq}, one, [&](const LayerView& view) { if (view.layer == 1) x = view.input; });
    squares += run_part(teacher_->layers[1][0], x, one, Numeric::kExact, true).reshape({kStartSeq, 4, 8}).to(at::kDouble).square().mean({0, 2}) / 2;
  }
  const at::Tensor want = squares.sqrt().to(at::kFloat).unsqueeze(1).expand({4, 8}).reshape({32});
  EXPECT_LT(error(weight, want), 1e-5);
  EXPECT_LT(error(tensor(begin("mlstm")[1][0], "norm.weight"), 2 * want), 1e-5);
  EXPECT_LT(error(tensor(begin("gla")[1][0], "g_norm.weight"), want.mean().expand({8})), 1e-5);
  EXPECT_LT(error(at::silu(tensor(begin("metala")[1][0], "g_proj.bias")), want), 1e-5);
}

// W_Q^T A_q^T A_k W_K against the truncated SVD of W_Q^T W_K, both of a kv head's two query heads.
TEST_F(StudentStartTest, RebasedMapsAreTheBestOfTheirRank) {
  for (int f : {3, 7}) {
    const auto parts = start("rebased", {{"feature_dim", f}});
    const PartWeights& part = parts[2][0];
    const at::Tensor q = tensor(part, "q_proj.weight").to(at::kDouble), k = tensor(part, "k_proj.weight").to(at::kDouble);
    const at::Tensor aq = tensor(part, "feature_q.weight").to(at::kDouble), ak = tensor(part, "feature_k.weight").to(at::kDouble);
    for (int g = 0; g < 2; ++g) {
      std::vector<at::Tensor> exact, got;
      const at::Tensor wk = k.narrow(0, g * 8, 8);
      for (int h = 2 * g; h < 2 * g + 2; ++h) {
        const at::Tensor wq = q.narrow(0, h * 8, 8);
        exact.push_back(at::matmul(wq.t(), wk));
        got.push_back(at::matmul(at::matmul(aq[h], wq).t(), at::matmul(ak[g], wk)));
      }
      const at::Tensor product = at::cat(exact);
      const auto [u, s, vt] = at::linalg_svd(product, false);
      const at::Tensor best = at::matmul(u.narrow(1, 0, f) * s.narrow(0, 0, f), vt.narrow(0, 0, f));
      EXPECT_LT(error(at::cat(got), best), 1e-5) << "rank " << f << " kv head " << g;
      EXPECT_GT(error(best, product), 1e-3) << "nothing was cut off: this tests nothing";
    }
  }
}

// A student's part that owns one kv head of two computes what it computed in the whole: their outputs add up, up to norms over all heads.
TEST_F(StudentStartTest, CutByHeadsItIsTheSameFunction) {
  const at::Tensor x = input();
  for_each_mixer([&](auto tag) {
    using Mixer = typename decltype(tag)::type;
    if (!Mixer::kRecurrent || std::string(Mixer::kName) == "hgrn2") return;  // HGRN2 norms its heads together
    SCOPED_TRACE(Mixer::kName);
    auto whole = start(Mixer::kName, nlohmann::json::object(), {16, 2});
    // Not as they start: identities and zeros would fit whichever way they are cut.
    torch::manual_seed(5);
    for (at::Tensor& value : whole[0][0].values) {
      if (value.defined()) value = value + 0.1 * torch::randn(value.sizes());
    }
    ModelConfig config = teacher_->config;
    config.plan[0].parts = {whole[0][0].part, whole[0][0].part};
    config.plan[0].parts[0].kv_heads = {0}, config.plan[0].parts[1].kv_heads = {1};
    ASSERT_TRUE(validate_plan(config).ok());
    auto parts = empty_parts(config);
    at::Tensor sum;
    for (PartWeights& part : parts[0]) {
      const Status status = fill_from(whole[0][0], part);
      ASSERT_TRUE(status.ok()) << status.error().message;
      const at::Tensor y = output(part, x);
      sum = sum.defined() ? sum + y : y;
    }
    EXPECT_LT(error(sum, output(whole[0][0], x)), 1e-5);
  });
}

}  // namespace
}  // namespace retort::train
