// The trainer's backend against the reference, for every operation and every mixer of the registry: values in f64, f32 and bf16,
// ragged batches, and gradients against finite differences in f64.
#include <gtest/gtest.h>

#include "conformance/operations.h"
#include "conformance/trained.h"

namespace retort::conformance {
namespace {

using train::Numeric;
using train::TorchOps;

const std::vector<int64_t> kSizes = {70, 1, 12};  // of the sequences
constexpr int64_t kRows = 83;

// Every leaf's gradient along a random step against central differences.
void expect_gradients(Trained& run, const std::vector<TensorSpec>& table, const auto& equation) {
  const at::Tensor direction = torch::randn_like(run.run(equation));
  std::vector<std::pair<std::string, at::Tensor*>> leaves = {{"x", &run.x}};
  for (size_t i = 0; i < run.weights.size(); ++i) {
    if (run.weights[i].defined()) leaves.push_back({table[i].name, &run.weights[i]});
  }
  const auto gradients = run.gradients(equation, direction);
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < leaves.size(); ++i) {
    const auto& [name, leaf] = leaves[i];
    ASSERT_TRUE(gradients[i].defined()) << name << " has no gradient";
    const at::Tensor kept = leaf->detach().clone(), step = torch::randn_like(kept);
    const double h = 1e-6 / std::sqrt(double(kept.numel()));
    const auto moved = [&](double by) {
      leaf->copy_(kept + by * step);
      const double value = (run.run(equation) * direction).sum().template item<double>();
      leaf->copy_(kept);
      return value;
    };
    const auto difference = [&](double by) { return (moved(by) - moved(-by)) / (2 * by); };
    const double got = (gradients[i] * step).sum().template item<double>();
    const double size = gradients[i].norm().template item<double>() + 1, tolerance = 1e-5 * size;
    // Central differences of a loss of size L: rounding 1e-16 L / h, about 1e-8 L for these sizes. Loud worlds have a large L: a step ten
    // times as wide has a tenth of that, and a wrong gradient is wrong for both.
    double expected = difference(h);
    if (std::fabs(got - expected) > tolerance) expected = difference(10 * h);
    EXPECT_NEAR(got, expected, tolerance) << name;
  }
}

template <class Equation>
auto operation_equation(const Operation& op, const Equation& equation) {
  return [&](TorchOps& ops, const TorchOps::Tensor& x, Weights<TorchOps> w) { return apply(equation, ops, op, x, w); };
}

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
    const auto got = [&](at::ScalarType type, Numeric numeric) {
      return values_of(Trained(w.shape, w.weights, x, kSizes, type, numeric).run(mixer_equation<Mixer>(w)));
    };
    EXPECT_LT(distance(got(torch::kFloat64, Numeric::kExact), want), 1e-9);
    // As for the runtime: float sums of ~100 terms; loud worlds multiply the arguments of exponentials by up to 20.
    EXPECT_LT(distance(got(torch::kFloat32, Numeric::kExact), want), loud ? 1e-3 : 2e-5);
    // 8 bits of every factor, several products deep, and norms that blow up what a corner leaves small; a loud exponential has no use
    // for such arguments.
    if (!loud) {
      EXPECT_LT(distance(got(torch::kFloat32, Numeric::kFast), want), w.corner ? 0.5 : 8e-2);
    }
  });
}

TEST(TrainConformance, GradientsAreFiniteDifferences) {
  for_each_world([](auto tag, const World& w) {
    using Mixer = typename decltype(tag)::type;
    torch::manual_seed(3);
    Trained run(w.shape, w.weights, random_rows(kRows, w.config.width, 2), kSizes, torch::kFloat64, Numeric::kExact);
    expect_gradients(run, w.table, mixer_equation<Mixer>(w));
  });
}

TEST(TrainConformance, OperationsFollowTheReference) {
  for_each_operation([](const Operation& op, const auto& plain) {
    SCOPED_TRACE(op.name);
    const auto equation = operation_equation(op, plain);
    const auto weights = operation_weights(op);
    const auto x = random_rows(kRows, op.input_columns(), 4);
    const auto want = operation_reference(op, plain, kSizes, x).values;
    const auto got = [&](at::ScalarType type, Numeric numeric) {
      return values_of(Trained(operation_shape(), weights, x, kSizes, type, numeric).run(equation));
    };
    EXPECT_LT(distance(got(torch::kFloat64, Numeric::kExact), want), 1e-12);
    EXPECT_LT(distance(got(torch::kFloat32, Numeric::kExact), want), 1e-5);
    EXPECT_LT(distance(got(torch::kFloat32, Numeric::kFast), want), 5e-2);  // 8 bits of every factor

    torch::manual_seed(3);
    Trained exact(operation_shape(), weights, x, kSizes, torch::kFloat64, Numeric::kExact);
    expect_gradients(exact, op.table(), equation);
    Trained fast(operation_shape(), weights, x, kSizes, torch::kFloat32, Numeric::kFast);
    const at::Tensor direction = torch::randn_like(exact.run(equation));
    const auto wanted_gradients = exact.gradients(equation, direction), fast_gradients = fast.gradients(equation, direction);
    for (size_t i = 0; i < wanted_gradients.size(); ++i) {
      EXPECT_LT(distance(values_of(fast_gradients[i]), values_of(wanted_gradients[i])), 5e-2) << "leaf " << i;
    }
  });
}

TEST(TrainConformance, OperationsTakeTheLayersNarrowInput) {
  for_each_operation([](const Operation& op, const auto& plain) {
    if (!op.takes_layer_input) return;
    SCOPED_TRACE(op.name);
    const auto equation = operation_equation(op, plain);
    Trained run(operation_shape(), operation_weights(op), random_rows(kRows, op.input_columns(), 4), kSizes, torch::kFloat32, Numeric::kFast);
    const at::Tensor want = run.run(equation).detach(), direction = torch::randn_like(want);
    const at::Tensor wanted_gradient = run.gradients(equation, direction)[0];
    run.x = run.x.detach().to(torch::kBFloat16);
    EXPECT_LT(distance(values_of(run.run(equation)), values_of(want)), 5e-2);
    EXPECT_LT(distance(values_of(run.gradients(equation, direction)[0]), values_of(wanted_gradient)), 5e-2);
  });
}

}  // namespace
}  // namespace retort::conformance
