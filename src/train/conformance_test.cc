// The trainer's backend against the reference, for every mixer of the registry: values in f64, f32 and bf16, ragged batches, and
// gradients against finite differences in f64.
#include <gtest/gtest.h>

#include "conformance/harness.h"
#include "train/torch_ops.h"

namespace retort::conformance {
namespace {

using train::Numeric;
using train::Rows;
using train::TorchOps;

at::Tensor as_torch(const std::vector<double>& values, std::vector<int64_t> shape, at::ScalarType type) {
  return torch::tensor(values, torch::kFloat64).view(shape).to(type);
}

std::vector<double> values_of(const at::Tensor& t) {
  const at::Tensor d = t.detach().to(torch::kFloat64).contiguous();
  return {d.data_ptr<double>(), d.data_ptr<double>() + d.numel()};
}

// A world's weights and input as leaves.
struct Trained {
  const World& world;
  std::vector<int64_t> sizes;  // of the sequences
  at::ScalarType type;
  Numeric numeric;
  std::vector<at::Tensor> weights{};  // undefined where absent
  at::Tensor x{};

  Trained(const World& w, const ReferenceOps::Tensor& input, std::vector<int64_t> s, at::ScalarType t, Numeric n)
      : world(w), sizes(std::move(s)), type(t), numeric(n), x(as_torch(input.values, {input.rows, input.columns}, t)) {
    for (const auto& weight : w.weights) weights.push_back(weight ? as_torch(weight.values, weight.shape, t) : at::Tensor());
  }

  template <class Mixer>
  at::Tensor forward() const {
    std::vector<train::Sequence> sequences;
    for (int64_t n : sizes) sequences.push_back({sequences.empty() ? 0 : sequences.back().begin + sequences.back().size, n});
    const Rows rows = Rows::make(sequences, world.config.rope, world.config.head_dim, type);
    TorchOps ops(rows, world.shape, numeric);
    std::vector<TorchOps::Weight> handles;
    for (const auto& w : weights) handles.push_back({w});
    const auto config = *parse_config<Mixer>(world.part().config);
    return ops.flat(part_forward<Mixer>(ops, config, world.shape, handles.data(), TorchOps::Tensor(x)));
  }
};

const std::vector<int64_t> kSizes = {70, 1, 12};
constexpr int64_t kRows = 83;

template <class Mixer>
ReferenceOps::Tensor wanted(const World& w, const ReferenceOps::Tensor& x) {
  std::vector<ReferenceState> states(kSizes.size());
  std::vector<ReferenceOps::Segment> segments;
  for (size_t i = 0; i < kSizes.size(); ++i) segments.push_back({&states[i], kSizes[i]});
  return reference<Mixer>(w, ReferenceForm::kStep, std::move(segments), x);
}

TEST(TrainConformance, ValuesFollowTheReference) {
  for_each_world([](auto tag, const World& w) {
    using Mixer = typename decltype(tag)::type;
    const torch::NoGradGuard no_grad;
    const auto x = random_rows(kRows, w.config.width, 1);
    const auto want = wanted<Mixer>(w, x).values;
    const bool loud = w.name.find("loudness 1") == std::string::npos;
    const auto got = [&](at::ScalarType type, Numeric numeric) { return values_of(Trained(w, x, kSizes, type, numeric).template forward<Mixer>()); };
    EXPECT_LT(distance(got(torch::kFloat64, Numeric::kExact), want), 1e-9);
    // As for the runtime: float sums of ~100 terms; loud worlds multiply the arguments of exponentials by up to 20.
    EXPECT_LT(distance(got(torch::kFloat32, Numeric::kExact), want), loud ? 1e-3 : 2e-5);
    // 8 bits of every factor, several products deep; a loud exponential has no use for such arguments.
    if (!loud) EXPECT_LT(distance(got(torch::kFloat32, Numeric::kFast), want), 8e-2);
  });
}

TEST(TrainConformance, GradientsAreFiniteDifferences) {
  for_each_world([](auto tag, const World& w) {
    using Mixer = typename decltype(tag)::type;
    torch::manual_seed(3);
    Trained run(w, random_rows(kRows, w.config.width, 2), kSizes, torch::kFloat64, Numeric::kExact);
    const at::Tensor direction = torch::randn({kRows, w.config.width}, torch::kFloat64);
    const auto loss = [&] { return (run.forward<Mixer>() * direction).sum(); };
    std::vector<std::pair<std::string, at::Tensor*>> leaves = {{"x", &run.x}};
    for (size_t i = 0; i < run.weights.size(); ++i) {
      if (run.weights[i].defined()) leaves.push_back({w.table[i].name, &run.weights[i]});
    }
    for (auto& [name, leaf] : leaves) leaf->requires_grad_();
    loss().backward();
    const torch::NoGradGuard no_grad;
    for (auto& [name, leaf] : leaves) {
      ASSERT_TRUE(leaf->grad().defined()) << name << " has no gradient";
      const at::Tensor gradient = leaf->grad(), kept = leaf->detach().clone();
      const at::Tensor step = torch::randn_like(kept);
      const double h = 1e-6 / std::sqrt(double(kept.numel()));
      const auto moved = [&](double by) {
        leaf->copy_(kept + by * step);
        const double value = loss().template item<double>();
        leaf->copy_(kept);
        return value;
      };
      const double expected = (moved(h) - moved(-h)) / (2 * h), got = (gradient * step).sum().item<double>();
      // Central differences of a loss of size L: rounding 1e-16 L / h, about 1e-8 L for these sizes.
      const double size = gradient.norm().item<double>() + 1;
      EXPECT_NEAR(got, expected, 1e-5 * size) << name;
    }
  });
}

}  // namespace
}  // namespace retort::conformance
