// Mixing matrices of every mixer of the registry: against its ordinary forward pass, as gradients, and in what they depend on.
#include <gtest/gtest.h>

#include "conformance/harness.h"
#include "conformance/trained.h"
#include "train/mixing_matrix.h"
#include "train/reach.h"

namespace retort::train {
namespace {

using conformance::World;

const std::vector<Sequence> kSequences = {{0, 70}, {70, 1}, {71, 12}};  // no multiple of a chunk
constexpr int64_t kMatrixRows = 83;

struct Case {
  PartWeights part;
  at::Tensor x;
  Rows rows;

  explicit Case(const World& w, at::ScalarType type = at::kDouble, unsigned seed = 1)
      : part{w.part(), w.shape, "", w.table, {}},
        x(conformance::as_torch(conformance::random_rows(kMatrixRows, w.config.width, seed).values, {kMatrixRows, w.config.width}, type)),
        rows(Rows::make(kSequences, w.config.rope, w.config.head_dim, type)) {
    for (const auto& weight : w.weights) part.values.push_back(weight ? conformance::as_torch(weight.values, weight.shape, type) : at::Tensor());
  }

  // M v for every head; v[T, G * V]
  at::Tensor times(const at::Tensor& v, int heads_of_values) const {
    MixingMatrices matrices(part, x, rows, Numeric::kExact);
    const int heads = part.shape.heads, count = matrices.together();
    const at::Tensor values = v.reshape({kMatrixRows, heads_of_values, -1});
    at::Tensor y = at::empty({kMatrixRows, heads, values.size(2)}, v.options());
    for (const Sequence& s : kSequences) {
      for (int head = 0; head < heads; head += count) {
        const at::Tensor m = matrices.of(head, count, s);
        for (int n = 0; n < count; ++n) {
          const at::Tensor own = values.narrow(0, s.begin, s.size).select(1, (head + n) / (heads / heads_of_values));
          y.narrow(0, s.begin, s.size).select(1, head + n).copy_(at::mm(m.select(1, n), own));
        }
      }
    }
    return y.reshape({kMatrixRows, -1});
  }
};

double error(const at::Tensor& a, const at::Tensor& b) { return ((a - b).abs().max() / b.abs().max().clamp_min(1e-30)).item<double>(); }

// Up to where the matrix ends, for any values: the recurrence, the window, and how they are joined.
template <class Mixer>
at::Tensor ordinary(const World& w, const Case& c, const at::Tensor& values) {
  TorchOps ops(c.rows, w.shape, Numeric::kExact);
  std::vector<TorchOps::Weight> weights;
  for (const at::Tensor& value : c.part.values) weights.push_back({value});
  const auto fields = *parse_config<Mixer>(w.part().config);
  auto in = Mixer::template inputs<TorchOps>(ops, fields, w.shape, weights.data(), TorchOps::Tensor(c.x));
  in.local_v = values;
  if constexpr (!Mixer::kRecurrent) {
    return local_attention(ops, w.shape, in).out.t;
  } else {
    const RecurrenceSpec spec = part_recurrence<Mixer>(fields, w.shape);
    in.v = ops.leaving(ops.repeat_heads(values, w.shape.kv_heads, spec.kv_heads / w.shape.kv_heads));
    auto far = ops.recurrence(spec, in);
    if (w.shape.window.size == 0) return far.out.t;
    const auto local = local_attention(ops, w.shape, in);
    const TorchOps::Weight* j = weights.data() + Mixer::kWeightCount;
    const auto gate = ops.linear(TorchOps::Tensor(c.x), j[join::kGateWeight], j[join::kGateBias]);
    if (!spec.joins()) return ops.add(local.out, ops.mul_heads(far.out, ops.sigmoid(gate), w.shape.heads)).t;
    far.log_norm = gate.t + j[join::kGamma].t * far.log_norm.t + (1 - j[join::kRho].t) * local.log_norm.t;
    return ops.join(local, far, w.shape.heads).t;
  }
}

TEST(MixingMatrix, TimesValuesIsTheForwardPass) {
  int worlds = 0, refused = 0;
  conformance::for_each_world([&](auto tag, const World& w) {
    using Mixer = typename decltype(tag)::type;
    if (!mixes_by_matrix(w.part())) {
      EXPECT_STREQ(Mixer::kName, "mamba");
      ++refused;
      return;
    }
    ++worlds;
    const at::NoGradGuard no_grad;
    torch::manual_seed(5);
    const Case c(w);
    const at::Tensor values = at::randn({kMatrixRows, int64_t(w.shape.kv_heads) * w.shape.head_dim}, at::kDouble);
    EXPECT_LT(error(c.times(values, w.shape.kv_heads), ordinary<Mixer>(w, c, values)), 1e-10);
  });
  EXPECT_GT(worlds, 150);
  EXPECT_GT(refused, 0);
}

// The whole part with its own values: what readout() makes of M v. Where a window is not under one normaliser with the recurrence, readout()
// stands between the two.
TEST(MixingMatrix, ReadOutItIsThePartsHeads) {
  conformance::for_each_world([](auto tag, const World& w) {
    using Mixer = typename decltype(tag)::type;
    const bool joined = Mixer::kRecurrent && w.shape.window.size > 0;
    if (!mixes_by_matrix(w.part()) || (joined && !rows_sum_to_one(w.part()))) return;
    const at::NoGradGuard no_grad;
    const Case c(w);
    TorchOps ops(c.rows, w.shape, Numeric::kExact);
    std::vector<TorchOps::Weight> weights;
    for (const at::Tensor& value : c.part.values) weights.push_back({value});
    const auto fields = *parse_config<Mixer>(w.part().config);
    const auto in = Mixer::template inputs<TorchOps>(ops, fields, w.shape, weights.data(), TorchOps::Tensor(c.x));
    const at::Tensor want = run_part(c.part, c.x, c.rows, Numeric::kExact, true);
    at::Tensor got;
    if constexpr (Mixer::kRecurrent) {
      const int of_values = joined ? w.shape.kv_heads : Mixer::recurrence(fields, w.shape).kv_heads;
      got = ops.flat(Mixer::template readout<TorchOps>(ops, fields, w.shape, weights.data(), in,
                                                       TorchOps::Tensor(c.times(joined ? in.local_v.t : in.v.t, of_values))));
    } else {
      got = c.times(in.local_v.t, w.shape.kv_heads);
    }
    // A norm blows up what a corner leaves small.
    EXPECT_LT(error(got, want), w.corner ? 1e-6 : 1e-9);
  });
}

TEST(MixingMatrix, FastOnesFollowTheExact) {
  conformance::for_each_world([](auto, const World& w) {
    if (!mixes_by_matrix(w.part())) return;
    const at::NoGradGuard no_grad;
    const Case exact(w), fast(w, at::kFloat);
    MixingMatrices a(exact.part, exact.x, exact.rows, Numeric::kExact), b(fast.part, fast.x, fast.rows, Numeric::kFast);
    for (int head = 0; head < a.heads(); head += a.together()) {
      const at::Tensor want = a.of(head, a.together(), kSequences[0]);
      EXPECT_LT(error(b.of(head, a.together(), kSequences[0]).to(at::kDouble), want), 8e-2);  // 8 bits of every factor
    }
  }, {1}, false);
}

// A weighted sum of all elements of all matrices.
double weighted(const Case& c, const std::vector<at::Tensor>& directions, bool backward = false, std::vector<at::Tensor>* gradients = nullptr) {
  MixingMatrices matrices(c.part, c.x, c.rows, Numeric::kExact);
  double sum = 0;
  size_t next = 0;
  for (const Sequence& s : kSequences) {
    for (int head = 0; head < matrices.heads(); head += matrices.together()) {
      const at::Tensor& direction = directions[next++];
      const at::Tensor loss = (matrices.of(head, matrices.together(), s) * direction).sum();
      sum += loss.item<double>();
      if (backward) matrices.backward(loss);
    }
  }
  if (backward) {
    torch::autograd::variable_list outputs, seeds, leaves;
    matrices.append_gradients(outputs, seeds);
    for (const at::Tensor& value : c.part.values) {
      if (value.defined()) leaves.push_back(value);
    }
    *gradients = torch::autograd::grad(outputs, leaves, seeds, std::nullopt, false, true);
  }
  return sum;
}

TEST(MixingMatrix, GradientsAreFiniteDifferencesAndReachWhatIsSaid) {
  conformance::for_each_world([](auto, const World& w) {
    if (!mixes_by_matrix(w.part()) || w.shape.window.size == 3) return;  // a minute is enough
    torch::manual_seed(9);
    Case c(w, at::kDouble, 2);
    MixingMatrices sizes(c.part, c.x, c.rows, Numeric::kExact);
    std::vector<at::Tensor> directions, gradients;
    for (const Sequence& s : kSequences) {
      for (int head = 0; head < sizes.heads(); head += sizes.together()) directions.push_back(at::randn({s.size, sizes.together(), s.size}, at::kDouble));
    }
    for (at::Tensor& value : c.part.values) {
      if (value.defined()) value.requires_grad_();
    }
    weighted(c, directions, true, &gradients);
    const auto behind = behind_matrix(w.config, w.part());
    size_t leaf = 0;
    for (size_t i = 0; i < w.table.size(); ++i) {
      if (!w.table[i].present()) continue;
      const at::Tensor& gradient = gradients[leaf++];
      SCOPED_TRACE(w.table[i].name);
      at::Tensor rest = gradient.defined() ? gradient.clone().reshape({-1}) : at::zeros({w.table[i].count()}, at::kDouble);
      for (const ElementRange& range : behind[i]) {
        EXPECT_GT(rest.narrow(0, range.first, range.count).abs().max().item<double>(), 0) << "said to be reached";
        rest.narrow(0, range.first, range.count).zero_();
      }
      EXPECT_EQ(rest.abs().max().item<double>(), 0) << "said not to be reached";
      if (behind[i].empty()) continue;
      const at::NoGradGuard no_grad;
      at::Tensor& value = c.part.values[i];
      const at::Tensor kept = value.detach().clone(), step = at::randn_like(kept);
      const double h = 1e-6 / std::sqrt(double(kept.numel()));
      const auto moved = [&](double by) {
        value.copy_(kept + by * step);
        const double sum = weighted(c, directions);
        value.copy_(kept);
        return sum;
      };
      const double expected = (moved(h) - moved(-h)) / (2 * h);
      EXPECT_NEAR((gradient * step).sum().item<double>(), expected, 1e-5 * (gradient.norm().item<double>() + 1));
    }
  }, {1}, false);
}

// Attention's, by its formula in plain loops over expanded heads, for several group sizes.
TEST(MixingMatrix, OfAttentionIsItsSoftmaxPerQueryHead) {
  for (const auto& [heads, kv_heads] : {std::pair(6, 6), std::pair(6, 2), std::pair(8, 2)}) {
    ModelConfig config;
    config.layers = 1, config.width = 24, config.heads = heads, config.kv_heads = kv_heads, config.head_dim = 8, config.mlp_width = 16;
    config.vocab_size = 10, config.context_length = 64;
    config.plan = attention_plan(config);
    ASSERT_TRUE(validate_plan(config).ok());
    torch::manual_seed(2);
    PartWeights part = empty_parts(config)[0][0];
    for (size_t i = 0; i < part.table.size(); ++i) {
      if (part.table[i].present()) part.values[i] = at::randn(part.table[i].shape, at::kDouble) / 3;
    }
    const std::vector<Sequence> sequences = {{0, 9}, {9, 4}};
    const Rows rows = Rows::make(sequences, config.rope, config.head_dim, at::kDouble);
    const at::Tensor x = at::randn({13, config.width}, at::kDouble);
    MixingMatrices matrices(part, x, rows, Numeric::kExact);
    const at::Tensor q = at::mm(x, part.values[qkv::kQ].t()), k = at::mm(x, part.values[qkv::kK].t());
    const auto frequencies = config.rope.frequencies(config.head_dim);
    const auto rotated = [&](const at::Tensor& t, int64_t row, int head, int64_t position, int i) {  // element i of the head
      const int half = config.head_dim / 2;
      const double a = t[row][head * 8 + i % half].item<double>(), b = t[row][head * 8 + half + i % half].item<double>();
      const double angle = double(position) * frequencies[size_t(i % half)];
      return i < half ? a * std::cos(angle) - b * std::sin(angle) : b * std::cos(angle) + a * std::sin(angle);
    };
    for (const Sequence& sequence : sequences) {
      for (int head = 0; head < config.heads; ++head) {
        const at::Tensor m = matrices.of(head, 1, sequence).select(1, 0);
        for (int64_t t = 0; t < sequence.size; ++t) {
          std::vector<double> weights;
          double sum = 0;
          for (int64_t s = 0; s <= t; ++s) {
            double dot = 0;
            for (int i = 0; i < 8; ++i) {
              dot += rotated(q, sequence.begin + t, head, t, i) * rotated(k, sequence.begin + s, head / (heads / kv_heads), s, i);
            }
            weights.push_back(std::exp(dot / std::sqrt(8.0)));
            sum += weights.back();
          }
          double row = 0;
          for (int64_t s = 0; s < sequence.size; ++s) {
            const double got = m[t][s].item<double>();
            EXPECT_NEAR(got, s <= t ? weights[size_t(s)] / sum : 0, 1e-12);
            row += got;
          }
          EXPECT_NEAR(row, 1, 1e-12);
        }
      }
    }
  }
}

TEST(MixingMatrix, RowsOfNormalisedMixersSumToOne) {
  conformance::for_each_world([](auto tag, const World& w) {
    using Mixer = typename decltype(tag)::type;
    if (!rows_sum_to_one(w.part())) return;
    const at::NoGradGuard no_grad;
    const Case c(w);
    MixingMatrices matrices(c.part, c.x, c.rows, Numeric::kExact);
    for (int head = 0; head < matrices.heads(); head += matrices.together()) {
      const at::Tensor sums = matrices.of(head, matrices.together(), kSequences[0]).sum(2);
      // A kernel that is squared may be near its own epsilon.
      EXPECT_LT((sums - 1).abs().max().item<double>(), std::string(Mixer::kName) == "rebased" ? 0.2 : 1e-6);
    }
  }, {1}, false);
}

}  // namespace
}  // namespace retort::train
