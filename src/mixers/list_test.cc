#include "mixers/list.h"

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "mixers/probe_ops.h"
#include "mixers/reference_ops.h"

namespace retort {
namespace {

ModelConfig small() {
  ModelConfig c;
  c.layers = 2, c.width = 48, c.heads = 6, c.kv_heads = 2, c.head_dim = 8, c.mlp_width = 64, c.vocab_size = 100, c.context_length = 256;
  c.plan = attention_plan(c);
  return c;
}

TEST(MixerList, EveryMixerValidatesAndDeclaresItsTensors) {
  for_each_mixer([](auto tag) {
    using Mixer = typename decltype(tag)::type;
    for (int window : {0, 5}) {
      if ((Mixer::kNeedsWindow && !window) || (!Mixer::kNeedsWindow && !Mixer::kRecurrent && window)) continue;
      ModelConfig c = small();
      c.plan[1] = {{Part{Mixer::kName, {0, 1}, {window, window ? 2 : 0}, nlohmann::json::object()}}};
      ASSERT_TRUE(validate_plan(c).ok()) << Mixer::kName << ": " << validate_plan(c).error().message;
      const auto table = part_tensors(c, c.plan[1].parts[0]);
      EXPECT_GE(table.size(), size_t(Mixer::kWeightCount)) << Mixer::kName;
      EXPECT_EQ(table[Mixer::kOutput].shape[0], c.width) << Mixer::kName;
      EXPECT_FALSE(part_states(c, c.plan[1].parts[0]).empty()) << Mixer::kName;
    }
  });
}

// Every field's least, usual and most value.
struct EndsVisitor {
  std::vector<std::pair<std::string, std::vector<nlohmann::json>>> fields{};
  template <class T, class L, class M>
  void operator()(const char* name, T& usual, L least, M most) {
    fields.push_back({name, {T(least), usual, T(most)}});
  }
};

TEST(MixerList, EveryStartThatIsAcceptedIsFinite) {
  for_each_mixer([](auto tag) {
    using Mixer = typename decltype(tag)::type;
    EndsVisitor ends;
    typename Mixer::Config usual;
    usual.visit(ends);
    size_t combinations = 1, accepted = 0;
    for (size_t f = 0; f < ends.fields.size(); ++f) combinations *= 3;
    for (size_t n = 0; n < combinations; ++n) {
      auto fields = nlohmann::json::object();
      size_t rest = n;
      for (const auto& [name, values] : ends.fields) fields[name] = values[rest % 3], rest /= 3;
      const auto config = parse_config<Mixer>(fields);
      if (!config.ok()) continue;
      ++accepted;
      const ModelConfig c = small();
      for (int window : {0, 5}) {
        const Part part{Mixer::kName, {0, 1}, {window, 0}, {}};
        for (const TensorSpec& spec : part_tensor_table<Mixer>(*config, part_shape(c, part))) {
          for (const InitBlock& block : spec.init) {
            for (double number : {block.value, block.last, block.scale}) {
              ASSERT_TRUE(std::isfinite(float(number))) << Mixer::kName << " " << spec.name << " " << fields.dump();
            }
          }
        }
      }
    }
    EXPECT_GT(accepted, 0u) << Mixer::kName;
  });
}

// The gates' cap is undone: what the slowest head keeps is the field, and an only head is the slowest.
TEST(MixerList, RetentionOfMlstmIsWhatItsGateKeeps) {
  using Config = Mlstm::Config;
  for (const Config& config : {Config{}, Config{.soft_cap = 7, .retention = 0.9}, Config{.soft_cap = 30, .retention = 0.999}}) {
    for (std::vector<int> heads : {std::vector<int>{0, 1}, std::vector<int>{0}}) {
      const auto table = Mlstm::tensors(config, part_shape(small(), Part{"mlstm", heads, {}, {}}));
      const InitBlock& bias = table[Mlstm::kForgetGateBias].init[0];
      const auto logit = [&](double u) { return config.soft_cap * std::tanh(u / config.soft_cap); };
      EXPECT_NEAR(1 / (1 + std::exp(-logit(bias.last))), config.retention, 1e-9);
      EXPECT_NEAR(logit(bias.value), logit(bias.last) / (heads.size() > 1 ? 2 : 1), 1e-9);
      EXPECT_EQ(table[Mlstm::kInputGateBias].init[0].last, -bias.last);
    }
  }
}

// What a fresh part has where a tensor starts from constants, zeros elsewhere.
std::vector<ReferenceOps::Weight> constant_starts(const std::vector<TensorSpec>& table) {
  std::vector<ReferenceOps::Weight> weights;
  for (const TensorSpec& spec : table) {
    ReferenceOps::Weight weight{spec.shape, std::vector<double>(size_t(spec.count()))};
    const size_t count = weight.values.size();
    const InitBlock block = spec.init.size() == 1 ? spec.init[0] : InitBlock::constant(0);
    for (size_t i = 0; i < count; ++i) {
      if (block.kind == InitBlock::Kind::kConstant) weight.values[i] = block.value;
      if (block.kind == InitBlock::Kind::kLinspace) weight.values[i] = block.value + (count > 1 ? (block.last - block.value) * double(i) / double(count - 1) : 0);
    }
    weights.push_back(std::move(weight));
  }
  return weights;
}

// Gates start by a formula from `retention` to a bias, which every mixer that has the field writes for its own equations.
TEST(MixerList, RetentionIsWhatTheSlowestHeadKeeps) {
  int held = 0;
  for_each_mixer([&](auto tag) {
    using Mixer = typename decltype(tag)::type;
    EndsVisitor ends;
    typename Mixer::Config usual;
    usual.visit(ends);
    const bool has = std::any_of(ends.fields.begin(), ends.fields.end(), [](const auto& field) { return field.first == "retention"; });
    if constexpr (Mixer::kRecurrent) {
      if (!has) return;
      ++held;
      for (const double retention : {0.6, 0.9, 0.99, 0.9999}) {
        SCOPED_TRACE(cat(Mixer::kName, " ", retention));
        const auto config = parse_config<Mixer>({{"retention", retention}});
        ASSERT_TRUE(config.ok()) << config.error().message;
        ModelConfig c = small();
        const PartShape shape = part_shape(c, Part{Mixer::kName, {0, 1}, {}, {}});
        const auto weights = constant_starts(Mixer::tensors(*config, shape));
        ReferenceState state;
        ReferenceOps ops(shape, ReferenceForm::kStep);
        ops.begin({{&state, 1}});
        const auto in = Mixer::template inputs<ReferenceOps>(ops, *config, shape, weights.data(), ReferenceOps::Tensor(1, c.width));
        const double slowest = *std::max_element(in.log_decay.values.begin(), in.log_decay.values.end());
        EXPECT_NEAR(slowest / std::log(retention), 1, 1e-6);
      }
    }
  });
  EXPECT_GE(held, 7);
}

// A layer of Llamba starts with a gate and a skip that let its values through.
TEST(MixerList, DiscreteMamba2StartsWithItsGateOpen) {
  const ModelConfig c = small();
  const PartShape shape = part_shape(c, Part{DiscreteMamba2::kName, {0, 1}, {}, {}});
  const auto weights = constant_starts(DiscreteMamba2::tensors({}, shape));
  ReferenceState state;
  ReferenceOps ops(shape, ReferenceForm::kStep);
  ops.begin({{&state, 1}});
  const auto in = DiscreteMamba2::inputs<ReferenceOps>(ops, {}, shape, weights.data(), ReferenceOps::Tensor(1, c.width));
  ReferenceOps::Tensor y(1, int(shape.query_rows()));
  for (size_t i = 0; i < y.values.size(); ++i) y.values[i] = double(i) - 7;
  const auto out = DiscreteMamba2::readout<ReferenceOps>(ops, {}, shape, weights.data(), in, y);
  for (size_t i = 0; i < y.values.size(); ++i) EXPECT_NEAR(out.values[i], y.values[i], 1e-9);
  for (int h = 0; h < shape.heads; ++h) EXPECT_EQ(in.skip[h], 1);
}

TEST(MixerList, BadPlansSayWhatIsWrong) {
  ModelConfig c = small();
  c.plan[0].parts[0].mixer = "mambo";
  EXPECT_NE(validate_plan(c).error().message.find("known: attention, window"), std::string::npos);
  c = small();
  c.plan[0].parts[0] = Part{"slots", {0, 1}, {}, {{"slots", 0}}};
  EXPECT_NE(validate_plan(c).error().message.find("'slots' is 0; expected 1 to 4096"), std::string::npos);
  c.plan[0].parts[0].config = {{"sluts", 3}};
  EXPECT_NE(validate_plan(c).error().message.find("no field 'sluts'; it has: slots"), std::string::npos);
  c = small();
  c.plan[1].parts[0].kv_heads = {0};
  EXPECT_NE(validate_plan(c).error().message.find("mixers[1]: kv head 1 is owned by no part"), std::string::npos);
}

TEST(MixerList, FieldsThatDoNotGoTogetherAreRefused) {
  const auto message = [](const auto& parsed) { return parsed.ok() ? std::string() : parsed.error().message; };
  EXPECT_NE(message(parse_config<Hgrn2>({{"lower_bound", 0.995}})).find("'retention' is 0.99, not above 'lower_bound', 0.995"), std::string::npos);
  EXPECT_NE(message(parse_config<Mamba>({{"a_last", 0.5}})).find("'a_last' is 0.5; expected 0, or 1 and more"), std::string::npos);
  EXPECT_EQ(message(parse_config<Mamba>({{"a_last", 1}})), "");
}

TEST(MixerList, AWindowIsWithinTheContext) {
  ModelConfig c = small();
  c.context_length = 64;
  c.plan[0].parts[0] = Part{"gla", {0, 1}, {60, 4}, nlohmann::json::object()};
  EXPECT_TRUE(validate_plan(c).ok());
  c.plan[0].parts[0].window.size = 61;
  EXPECT_NE(validate_plan(c).error().message.find("a window of 61 with 4 sinks is longer than the model's context of 64"), std::string::npos);
  c.plan[0].parts[0].window = {0, 4};
  EXPECT_NE(validate_plan(c).error().message.find("4 sinks without a window"), std::string::npos);
}

TEST(MixerList, ALayoutHasALetterForEveryMixer) {
  ModelConfig c = small();
  c.plan.clear();
  for (const char* mixer : {"mamba", "mamba2", "attention", "mlstm", "mamba", "window"}) c.plan.push_back({{Part{mixer, {0, 1}, {}, {}}}});
  c.plan.push_back({{Part{"gla", {0}, {}, {}}, Part{"attention", {1}, {}, {}}}});
  c.layers = int(c.plan.size());
  EXPECT_EQ(layout_string(c), "MA*LMw+");
}

TEST(MixerList, FingerprintFollowsThePlan) {
  ModelConfig a = small(), b = small();
  EXPECT_EQ(fingerprint(a), fingerprint(b));
  b.plan[1].parts[0] = Part{"slots", {0, 1}, {4, 1}, {{"slots", 16}}};
  EXPECT_NE(fingerprint(a), fingerprint(b));
}

}  // namespace
}  // namespace retort
