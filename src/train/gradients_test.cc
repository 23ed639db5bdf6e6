// The fast arithmetic's gradients point where the exact ones do, for every mixer, at the sizes that train.
#include <gtest/gtest.h>

#include "mixers/list.h"
#include "train/torch_model.h"

namespace retort::train {
namespace {

ModelConfig config_with(const std::string& mixer, int window) {
  ModelConfig c;
  c.layers = 1, c.width = 96, c.heads = 6, c.kv_heads = 2, c.head_dim = 32, c.mlp_width = 64, c.vocab_size = 100, c.context_length = 512;
  c.plan = {{{Part{mixer, {0, 1}, {window, window ? 4 : 0}, nlohmann::json::object()}}}};
  return c;
}

std::vector<at::Tensor> gradients(PartWeights part, const at::Tensor& x, const Rows& rows, const at::Tensor& direction, Numeric numeric) {
  std::vector<at::Tensor> leaves;
  for (at::Tensor& value : part.values) {
    if (!value.defined()) continue;
    value = value.detach().clone().requires_grad_();
    leaves.push_back(value);
  }
  const at::Tensor y = run_part(part, x, rows, numeric);
  return torch::autograd::grad({y}, leaves, {direction}, std::nullopt, false, true);
}

at::Tensor rounded_to_bf16(const at::Tensor& x) { return x.to(at::kBFloat16).to(x.scalar_type()); }

TEST(Gradients, FastOnesPointWhereExactOnesDo) {
  at::set_num_threads(1);
  for_each_mixer([](auto tag) {
    using Mixer = typename decltype(tag)::type;
    for (int window : {0, 16}) {
      if ((Mixer::kNeedsWindow && !window) || (!Mixer::kNeedsWindow && !Mixer::kRecurrent && window)) continue;
      ModelConfig c = config_with(Mixer::kName, window);
      ASSERT_TRUE(validate_plan(c).ok());
      PartWeights part = empty_parts(c)[0][0];
      torch::manual_seed(7);
      for (size_t i = 0; i < part.table.size(); ++i) {
        const TensorSpec& spec = part.table[i];
        if (!spec.present()) continue;
        const double fan_in = spec.shape.size() > 1 ? double(spec.shape.back()) : 4.0;
        part.values[i] = at::randn(spec.shape) / std::sqrt(fan_in);
        if (spec.name == "join.gamma" || spec.name == "join.rho") part.values[i] = at::ones(spec.shape);
      }
      const Rows rows = Rows::make({{0, 150}, {150, 9}, {159, 75}}, c.rope, c.head_dim, at::kFloat);
      const at::Tensor x = at::randn({rows.total, c.width}), direction = at::randn({rows.total, c.width});
      const auto exact = gradients(part, x, rows, direction, Numeric::kExact), fast = gradients(part, x, rows, direction, Numeric::kFast);
      // What rounding to bf16 does to the exact gradient says how well-posed it is: the norm of a head whose state holds next to nothing,
      // or a normaliser at its kink, turns rounding into direction.
      PartWeights rounded_part = part;
      for (auto& value : rounded_part.values) {
        if (value.defined()) value = rounded_to_bf16(value);
      }
      const auto rounded = gradients(rounded_part, rounded_to_bf16(x), rows, direction, Numeric::kExact);
      size_t leaf = 0;
      for (size_t i = 0; i < part.table.size(); ++i) {
        if (!part.values[i].defined()) continue;
        const at::Tensor &e = exact[leaf], &f = fast[leaf], &r = rounded[leaf];
        ++leaf;
        ASSERT_EQ(e.defined(), f.defined()) << part.table[i].name;
        if (!e.defined() || e.norm().item<double>() < 1e-6) continue;
        const double error = ((f - e).norm() / e.norm()).item<double>(), noise = ((r - e).norm() / e.norm()).item<double>();
        // bf16 factors: 8 bits each, several products deep.
        EXPECT_LT(error, 0.02 + 4 * noise) << Mixer::kName << " window " << window << " " << part.table[i].name;
      }
    }
  });
}

}  // namespace
}  // namespace retort::train
