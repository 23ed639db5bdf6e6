// Low-rank updates: where they sit, that fresh ones change nothing, their gradients against autograd and finite differences, and merging.
#include "train/lora.h"

#include <deque>

#include <gtest/gtest.h>

#include "support/tiny_pair.h"
#include "test_files.h"
#include "train/student_plan.h"

namespace retort::train {
namespace {

constexpr int kLoraSeq = 24;

class LoraTest : public ::testing::Test {
 protected:
  // As fake::tiny_pair, in f32; the last layer keeps attention.
  void SetUp() override {
    ASSERT_TRUE(retort::test::write_tiny_model(folder_ / "teacher").ok());
    const auto files = open_model(folder_ / "teacher");
    ASSERT_TRUE(files.ok());
    auto teacher = load_model(*files, Numeric::kExact);
    ASSERT_TRUE(teacher.ok());
    teacher_ = std::move(*teacher);
    student_ = teacher_;
    for (int l = 0; l < 2; ++l) student_.config.plan[size_t(l)].parts[0].mixer = "gla", student_.config.plan[size_t(l)].parts[0].config = nlohmann::json::object();
    ASSERT_TRUE(validate_plan(student_.config).ok());
    student_.layers = empty_parts(student_.config);
    torch::manual_seed(3);
    for (auto& parts : student_.layers) {
      for (size_t i = 0; i < parts[0].table.size(); ++i) {
        const TensorSpec& spec = parts[0].table[i];
        if (spec.present()) parts[0].values[i] = at::randn(spec.shape) / std::sqrt(double(spec.shape.back()));
      }
    }
    batch_.rows = 2, batch_.seq = kLoraSeq, batch_.starts = {0, kLoraSeq, kLoraSeq + 7};
    for (int i = 0; i < 2 * kLoraSeq; ++i) batch_.tokens.push_back((i * 37 + i / 7) % 256);
    for (int l = 0; l < 3; ++l) {
      for (PartWeights& part : student_.layers[size_t(l)]) {
        for (size_t i = 0; i < part.table.size(); ++i) {
          if (part.values[i].defined()) add(part.values[i], l, {part.prefix + part.table[i].name});
        }
      }
      const std::string base = cat("model.layers.", l, ".mlp.");
      student_.body.layers[size_t(l)].gate_up = student_.body.layers[size_t(l)].gate_up.clone();
      add(student_.body.layers[size_t(l)].gate_up, l, {base + "gate_proj.weight", base + "up_proj.weight"});
    }
  }
  void add(at::Tensor& value, int layer, const std::vector<std::string>& names) {
    Leaf leaf{value, {}, layer, true, {}};
    const int64_t count = value.numel() / int64_t(names.size());
    for (size_t i = 0; i < names.size(); ++i) leaf.slices.push_back({names[i], TrainGroup::kProjection, true, int64_t(i) * count, count});
    leaves_.push_back(std::move(leaf));
  }

  static StageSpec stage_of(std::vector<std::string> on, LossKind loss = LossKind::kCe) {
    StageSpec stage;
    stage.name = "adapt";
    stage.losses = {LossSpec{loss, loss == LossKind::kCe ? LossForm::kHard : LossForm::kMse}};
    stage.train = {};
    stage.lora = {4, 6, std::move(on)};
    return stage;
  }
  struct Adapted {
    std::vector<LoraTarget> targets;
    std::vector<Leaf*> bases;
    std::unique_ptr<StageRunner> runner;
    std::vector<Parameter> parameters;
  };
  Adapted adapt(const StageSpec& stage) {
    Adapted out;
    auto targets = lora_targets(stage, student_.config);
    EXPECT_TRUE(targets.ok()) << targets.error().message;
    out.targets = *targets;
    for (Leaf& leaf : leaves_) {
      const bool has = std::any_of(out.targets.begin(), out.targets.end(), [&](const LoraTarget& t) {
        return std::any_of(leaf.slices.begin(), leaf.slices.end(), [&](const Leaf::Slice& s) { return s.name == t.tensor; });
      });
      if (has) out.bases.push_back(&leaf);
    }
    out.runner = make_lora_stage(stage, out.targets, out.bases, {teacher_, student_, pool_, {}, reached(stage, student_.config)}, 5);
    out.parameters = out.runner->parameters();
    return out;
  }
  static at::Tensor view(std::span<float> numbers, int64_t rows) {
    return torch::from_blob(numbers.data(), {rows, int64_t(numbers.size()) / rows}, at::kFloat);
  }
  // B is zero at first: A would have no gradient.
  static void disturb(Adapted& adapted) {
    torch::manual_seed(8);
    for (Parameter& p : adapted.parameters) {
      const at::Tensor values = view(p.value, 1);
      values.copy_(at::randn(values.sizes()) * 0.1);
    }
  }
  StepResult step(Adapted& adapted) {
    const auto result = adapted.runner->step(batch_, {});
    EXPECT_TRUE(result.ok()) << result.error().message;
    return result.ok() ? *result : StepResult{};
  }
  // The loss without LoRA, and the gradients of these leaves.
  std::pair<double, std::vector<at::Tensor>> plain(StageSpec stage, const TorchModel& model, const std::vector<Leaf*>& bases) {
    stage.lora = {};
    std::vector<Leaf> copies;
    TorchModel student = model;
    std::vector<at::Tensor> from, to;
    copies.reserve(bases.size());
    for (Leaf* base : bases) {
      copies.push_back(*base);
      from.push_back(base->value), to.push_back(base->value.detach().clone().requires_grad_());
      copies.back().value = to.back(), copies.back().gradient = at::zeros_like(base->value);
    }
    student = with_tensors(model, from, to);
    std::vector<Leaf*> leaves;
    for (Leaf& leaf : copies) leaves.push_back(&leaf);
    const auto result = make_stage_runner(stage, {teacher_, student, pool_, leaves, reached(stage, student_.config)})->step(batch_, {});
    EXPECT_TRUE(result.ok());
    std::vector<at::Tensor> gradients;
    for (Leaf& leaf : copies) gradients.push_back(leaf.gradient);
    return {result.ok() ? result->loss : 0, gradients};
  }

  retort::test::TempFolder folder_;
  TorchModel teacher_, student_;
  std::deque<Leaf> leaves_;
  ThreadPool pool_{2};
  Batch batch_;
};

TEST_F(LoraTest, SitsOnWhatIsNamed) {
  const auto names = [&](const StageSpec& stage) {
    std::string out;
    const auto targets = lora_targets(stage, student_.config);
    EXPECT_TRUE(targets.ok()) << targets.error().message;
    for (const auto& t : *targets) out += t.name.substr(std::string("model.layers.").size()) + " ";
    return out;
  };
  EXPECT_EQ(names(stage_of({"q", "o"})), "0.mixer.q_proj.weight 0.mixer.o_proj.weight 1.mixer.q_proj.weight 1.mixer.o_proj.weight "
                                         "2.self_attn.q_proj.weight 2.self_attn.o_proj.weight ");
  EXPECT_EQ(names(stage_of({"up", "*.1.mixer.k_proj.weight"})), "0.mlp.up_proj.weight 1.mixer.k_proj.weight 1.mlp.up_proj.weight 2.mlp.up_proj.weight ");
  // A matrix that is several projections has one update for each.
  student_.config.plan[0].parts[0].mixer = "mamba2", student_.config.plan[0].parts[0].config = nlohmann::json::object();
  ASSERT_TRUE(validate_plan(student_.config).ok());
  const auto targets = *lora_targets(stage_of({"q", "v"}), student_.config);
  ASSERT_EQ(targets[0].name, "model.layers.0.mixer.in_proj.weight.q");
  ASSERT_EQ(targets[1].name, "model.layers.0.mixer.in_proj.weight.v");
  EXPECT_EQ(targets[0].first_row, 32);
  EXPECT_EQ(targets[0].rows, 32) << "four heads of 8";
  EXPECT_EQ(targets[1].first_row, 0);
  EXPECT_EQ(targets[1].rows, 16) << "two kv heads of 8";

  const auto wrong = [&](const StageSpec& stage) {
    const auto result = lora_targets(stage, student_.config);
    EXPECT_FALSE(result.ok());
    return result.ok() ? "" : result.error().message;
  };
  EXPECT_NE(wrong(stage_of({"q", "gates"})).find("called 'gates'; did you mean 'gate'?"), std::string::npos) << wrong(stage_of({"q", "gates"}));
  StageSpec both = stage_of({"q"});
  both.train = {"mixers"};
  EXPECT_NE(wrong(both).find("mixer.in_proj.weight trains itself, and has LoRA"), std::string::npos) << wrong(both);
  EXPECT_NE(wrong(stage_of({"up"}, LossKind::kAttnOut)).find("that the stage's losses reach is called 'up'"), std::string::npos);
}

TEST_F(LoraTest, AFreshOneChangesNothing) {
  for (const LossKind loss : {LossKind::kCe, LossKind::kAttnOut}) {
    const StageSpec stage = stage_of({"q", "v", "o"}, loss);
    Adapted adapted = adapt(stage);
    std::vector<at::Tensor> before;
    for (Leaf* base : adapted.bases) before.push_back(base->value.clone());
    EXPECT_EQ(step(adapted).loss, plain(stage, student_, adapted.bases).first);
    for (const Parameter& p : adapted.parameters) {
      const bool a = p.name.ends_with("lora_A");
      const at::Tensor values = view(p.value, 1);
      const double bound = 1 / std::sqrt(32.0);
      EXPECT_NEAR(values.abs().max().item<double>(), a ? bound : 0, a ? 0.1 * bound : 0) << p.name << ": A is uniform within 1 / sqrt(in), B zero";
      EXPECT_LE(values.abs().max().item<double>(), bound);
      EXPECT_EQ(view(p.gradient, 1).abs().max().item<double>() > 0, !a) << p.name;
    }
    ASSERT_TRUE(adapted.runner->finish().ok());
    for (size_t i = 0; i < before.size(); ++i) EXPECT_TRUE(at::equal(adapted.bases[i]->value, before[i])) << adapted.bases[i]->slices[0].name;
  }
}

// dL/dA and dL/dB by autograd through W + s B A, of a loss whose gradient by W' is that of the stage without LoRA; and by the loss itself.
TEST_F(LoraTest, GradientsAreThoseOfTheProduct) {
  const StageSpec stage = stage_of({"q", "k", "o", "gate"});
  Adapted adapted = adapt(stage);
  disturb(adapted);
  step(adapted);
  // W' in place of W.
  const double scale = 6.0 / 4;
  std::vector<at::Tensor> from, merged;
  for (Leaf* base : adapted.bases) from.push_back(base->value), merged.push_back(base->value.detach().clone());
  std::vector<at::Tensor> leaves_a, leaves_b, wholes;
  for (size_t i = 0; i < adapted.targets.size(); ++i) {
    const LoraTarget& t = adapted.targets[i];
    leaves_a.push_back(view(adapted.parameters[2 * i].value, 4).clone().requires_grad_());
    leaves_b.push_back(view(adapted.parameters[2 * i + 1].value, t.rows).clone().requires_grad_());
    wholes.push_back(scale * at::mm(leaves_b[i], leaves_a[i]));
    for (size_t j = 0; j < adapted.bases.size(); ++j) {
      for (const Leaf::Slice& s : adapted.bases[j]->slices) {
        if (s.name == t.tensor) merged[j].view({-1}).narrow(0, s.offset, s.count).add_(wholes[i].detach().view({-1}));
      }
    }
  }
  std::vector<Leaf> copies;
  std::vector<Leaf*> bases;
  for (Leaf* base : adapted.bases) copies.push_back(*base);
  for (size_t j = 0; j < copies.size(); ++j) copies[j].value = merged[j], bases.push_back(&copies[j]);
  const auto [loss, gradients] = plain(stage, with_tensors(student_, from, merged), bases);
  const double own = step(adapted).loss;  // gradients add up: twice
  EXPECT_NEAR(own, loss, 1e-6 * loss);
  at::Tensor sum = at::zeros({});
  for (size_t i = 0; i < adapted.targets.size(); ++i) {
    const LoraTarget& t = adapted.targets[i];
    for (size_t j = 0; j < bases.size(); ++j) {
      for (const Leaf::Slice& s : bases[j]->slices) {
        if (s.name == t.tensor) sum = sum + (gradients[j].view({-1}).narrow(0, s.offset, s.count).view({t.rows, t.columns}) * wholes[i]).sum();
      }
    }
  }
  sum.backward();
  for (size_t i = 0; i < adapted.targets.size(); ++i) {
    const auto error = [](const at::Tensor& a, const at::Tensor& b) { return ((a - b).norm() / b.norm()).item<double>(); };
    EXPECT_LT(error(view(adapted.parameters[2 * i].gradient, 4) / 2, leaves_a[i].grad()), 1e-4) << adapted.parameters[2 * i].name;
    EXPECT_LT(error(view(adapted.parameters[2 * i + 1].gradient, adapted.targets[i].rows) / 2, leaves_b[i].grad()), 1e-4) << adapted.parameters[2 * i + 1].name;
  }
  // Along the gradient the loss rises by its square.
  double square = 0;
  std::vector<at::Tensor> directions;
  for (const Parameter& p : adapted.parameters) {
    directions.push_back(view(p.gradient, 1).clone() / 2);
    square += directions.back().square().sum().item<double>();
  }
  const auto moved = [&](double by) {
    for (size_t i = 0; i < directions.size(); ++i) view(adapted.parameters[i].value, 1).add_(directions[i], by);
    const double there = step(adapted).loss;
    for (size_t i = 0; i < directions.size(); ++i) view(adapted.parameters[i].value, 1).sub_(directions[i], by);
    return there;
  };
  // In f32 some step is small for the loss's curve and large for its rounding.
  std::string tried;
  double nearest = 1;
  for (double share : {1e-3, 3e-4, 1e-4, 3e-5, 1e-5}) {
    const double h = share * loss / square, ratio = (moved(h) - moved(-h)) / (2 * h) / square;
    tried += cat(" ", ratio);
    nearest = std::min(nearest, std::fabs(ratio - 1));
  }
  EXPECT_LT(nearest, 0.02) << tried;
}

TEST_F(LoraTest, MergedIsUnmerged) {
  const StageSpec stage = stage_of({"q", "k", "v", "o", "up"});
  Adapted adapted = adapt(stage);
  disturb(adapted);
  std::vector<at::Tensor> before;
  for (Leaf* base : adapted.bases) before.push_back(base->value.clone());
  const double loss = step(adapted).loss;
  ASSERT_TRUE(adapted.runner->finish().ok());
  EXPECT_NEAR(plain(stage, student_, adapted.bases).first, loss, 1e-6 * loss);
  torch::manual_seed(4);
  for (size_t i = 0; i < adapted.targets.size(); ++i) {
    const LoraTarget& t = adapted.targets[i];
    const at::Tensor a = view(adapted.parameters[2 * i].value, 4), b = view(adapted.parameters[2 * i + 1].value, t.rows), x = at::randn({5, t.columns});
    for (size_t j = 0; j < adapted.bases.size(); ++j) {
      for (const Leaf::Slice& s : adapted.bases[j]->slices) {
        if (s.name != t.tensor) continue;
        const auto matrix = [&](const at::Tensor& whole) { return whole.view({-1}).narrow(0, s.offset, s.count).view({t.rows, t.columns}); };
        const at::Tensor want = at::mm(x, matrix(before[j]).t()) + 1.5 * at::mm(at::mm(x, a.t()), b.t());
        const at::Tensor got = at::mm(x, matrix(adapted.bases[j]->value).t());
        EXPECT_LT(((got - want).norm() / want.norm()).item<double>(), 1e-6) << t.name;
      }
    }
  }
  // gate shares its tensor with up, and has no LoRA.
  for (size_t j = 0; j < adapted.bases.size(); ++j) {
    const bool gate_up = adapted.bases[j]->slices.size() == 2;
    EXPECT_TRUE(!gate_up || at::equal(adapted.bases[j]->value.narrow(0, 0, 48), before[j].narrow(0, 0, 48)));
  }
}

}  // namespace
}  // namespace retort::train
