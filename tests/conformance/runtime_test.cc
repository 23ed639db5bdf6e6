// The runtime's backend against the reference: every mixer, instruction set and weight format, fed whole, token by token, and in
// random pieces of ragged batches, with scratch memory that is full of NaNs.
#include <gtest/gtest.h>

#include "base/cpu.h"
#include "conformance/operations.h"
#include "conformance/served.h"
#include "kernels/scratch.h"

namespace retort::conformance {
namespace {

// A world's part.
class ServedPart : public Served {
 public:
  ServedPart(const World& w, WeightFormat format)
      : Served(w.table, w.weights, w.shape, std::make_shared<const StateLayout>(w.config, CacheType::kF32), format), world_(w) {}

  template <class Mixer>
  ReferenceOps::Tensor forward(std::vector<RowSegment> segments, const ReferenceOps::Tensor& x) {
    return run(std::move(segments), x, [&](RuntimeOps& ops, RuntimeOps::Tensor input, Weights<RuntimeOps> weights) {
      return part_forward<Mixer>(ops, *parse_config<Mixer>(world_.part().config), world_.shape, weights, input);
    });
  }

  template <class Mixer>
  ReferenceOps::Tensor whole(const ReferenceOps::Tensor& x) {
    Sequence s = sequence();
    return forward<Mixer>({{&s, 0, x.rows}}, x);
  }

 private:
  const World& world_;
};

class RuntimeConformance : public testing::Test {
 protected:
  void SetUp() override { poison_scratch(true); }
  void TearDown() override {
    poison_scratch(false);
    set_active_isa(available_isas().back());
  }
};

// Float sums of ~100 terms a few operations deep; loud worlds multiply the arguments of exponentials by up to 20. A divisor whose
// epsilon a float can see is a sum of features of either sign: where they cancel, the rounding of a float state stays.
template <class Mixer>
double float_tolerance(const World& w) {
  if (w.name.find("loudness 1") == std::string::npos) return 1e-3;
  if constexpr (Mixer::kRecurrent) {
    if (Mixer::recurrence(*parse_config<Mixer>(w.part().config), w.shape).norm_eps > 1e-7) return 2e-4;
  }
  return 2e-5;
}

TEST_F(RuntimeConformance, EveryIsaFollowsTheReference) {
  for_each_world([](auto tag, const World& w) {
    using Mixer = typename decltype(tag)::type;
    const int64_t rows = 150;  // more than two chunks
    const auto x = random_rows(rows, w.config.width, 1);
    const auto want = reference<Mixer>(w, ReferenceForm::kStep, x);
    ServedPart served(w, WeightFormat::kF32);
    for (Isa isa : available_isas()) {
      SCOPED_TRACE(isa_name(isa));
      set_active_isa(isa);
      EXPECT_LT(distance(served.whole<Mixer>(x).values, want.values), float_tolerance<Mixer>(w)) << "whole";
      Sequence s = served.sequence();
      ReferenceOps::Tensor stepped(rows, x.columns);
      for (int64_t t = 0; t < rows; ++t) {
        const auto y = served.forward<Mixer>({{&s, 0, 1}}, slice(x, t, 1));
        std::copy(y.values.begin(), y.values.end(), stepped.row(t));
      }
      EXPECT_LT(distance(stepped.values, want.values), float_tolerance<Mixer>(w)) << "token by token";
    }
  });
}

TEST_F(RuntimeConformance, RaggedBatchesInRandomPieces) {
  for_each_world([](auto tag, const World& w) {
    using Mixer = typename decltype(tag)::type;
    const int64_t sizes[] = {70, 33, 101};
    std::mt19937 random(7);
    ServedPart served(w, WeightFormat::kF32);
    std::vector<ReferenceOps::Tensor> x, want;
    std::vector<Sequence> sequences;
    for (int i = 0; i < 3; ++i) {
      x.push_back(random_rows(sizes[i], w.config.width, 10 + unsigned(i)));
      want.push_back(reference<Mixer>(w, ReferenceForm::kStep, x.back()));
      sequences.push_back(served.sequence());
    }
    for (int64_t done[3] = {}; done[0] < sizes[0] || done[1] < sizes[1] || done[2] < sizes[2];) {
      std::vector<RowSegment> segments;
      ReferenceOps::Tensor rows(0, w.config.width), expected(0, w.config.width);
      for (int i = 0; i < 3; ++i) {
        const int64_t n = std::min<int64_t>(int64_t(random() % 12), sizes[i] - done[i]);
        if (n == 0) continue;
        segments.push_back({&sequences[i], rows.rows, n});
        const auto append = [&](ReferenceOps::Tensor& to, const ReferenceOps::Tensor& from) {
          to.values.insert(to.values.end(), from.row(done[i]), from.row(done[i]) + n * from.columns);
          to.rows += n;
        };
        append(rows, x[size_t(i)]);
        append(expected, want[size_t(i)]);
        done[i] += n;
      }
      if (rows.rows == 0) continue;
      ASSERT_LT(distance(served.forward<Mixer>(segments, rows).values, expected.values), 2 * float_tolerance<Mixer>(w));
    }
  }, {1});
}

TEST_F(RuntimeConformance, EveryOperationFollowsTheReference) {
  for_each_operation([](const Operation& op, const auto& equation) {
    SCOPED_TRACE(op.name);
    const PartShape shape = operation_shape();
    const auto table = op.table();
    std::vector<ProbeOps::Weight> sizes;
    for (const auto& spec : table) sizes.emplace_back(&spec);
    sizes.emplace_back();
    ProbeOps probe(shape);
    const auto probed = apply(equation, probe, op, ProbeOps::Tensor{op.input_columns()}, sizes.data());

    const std::vector<int64_t> lengths = {70, 1, 12};
    const auto x = random_rows(83, op.input_columns(), 4);
    const auto want = operation_reference(op, equation, lengths, x);
    ASSERT_EQ(probed.columns, want.columns);
    Served served(table, operation_weights(op), shape, std::make_shared<const StateLayout>(probe.states, CacheType::kF32), WeightFormat::kF32);
    const auto run = [&](std::vector<RowSegment> segments, const ReferenceOps::Tensor& rows) {
      return served.run(std::move(segments), rows, [&](RuntimeOps& ops, RuntimeOps::Tensor input, Weights<RuntimeOps> w) {
        return apply(equation, ops, op, input, w);
      });
    };
    for (Isa isa : available_isas()) {
      SCOPED_TRACE(isa_name(isa));
      set_active_isa(isa);
      std::vector<Sequence> together(3, served.sequence());
      const auto whole = run({{&together[0], 0, 70}, {&together[1], 70, 1}, {&together[2], 71, 12}}, x);
      // Float sums of up to 70 terms, a few operations deep.
      EXPECT_LT(distance(whole.values, want.values), 1e-5);
      Sequence alone = served.sequence();
      for (int64_t t = 0, n = 1; t < 70; t += n, n = std::min<int64_t>(1 + n * 7 % 12, 70 - t)) {
        EXPECT_LT(distance(run({{&alone, 0, n}}, slice(x, t, n)).values, slice(want, t, n).values), 1e-4) << n << " rows from " << t;
      }
    }
  });
}

double relative_error(const std::vector<double>& a, const std::vector<double>& b) {
  double error = 0, size = 0;
  for (size_t i = 0; i < b.size(); ++i) error += (a[i] - b[i]) * (a[i] - b[i]), size += b[i] * b[i];
  return std::sqrt(error / size);
}

TEST_F(RuntimeConformance, EveryWeightFormatStaysNear) {
  // Relative error of one rounded weight (bf16 2^-9; Q8 2^-8, its activations too; Q4 2^-4) with a factor for the chain of
  // products, and for norms that blow up heads whose output is small.
  const std::pair<WeightFormat, double> formats[] = {
      {WeightFormat::kF32, 1e-5}, {WeightFormat::kBF16, 2e-2}, {WeightFormat::kQ8_0, 0.1}, {WeightFormat::kQ4_0, 0.35}, {WeightFormat::kQ4_1, 0.35}};
  for_each_world([&](auto tag, const World& w) {
    using Mixer = typename decltype(tag)::type;
    const auto x = random_rows(80, w.config.width, 3);
    const auto want = reference<Mixer>(w, ReferenceForm::kStep, x);
    for (const auto& [format, tolerance] : formats) {
      ServedPart served(w, format);
      std::vector<double> first;
      for (Isa isa : available_isas()) {
        set_active_isa(isa);
        const auto y = served.whole<Mixer>(x).values;
        EXPECT_LT(relative_error(y, want.values), tolerance) << "format " << int(format) << ' ' << isa_name(isa);
        if (first.empty()) first = y;
        // A matrix unit takes a prompt's inputs as bf16 where others round them to signed bytes, which is the larger part of Q8_0's tolerance.
        const bool bytes = format != WeightFormat::kF32 && format != WeightFormat::kBF16;
        EXPECT_LT(relative_error(y, first), isa == Isa::kAmx && bytes ? 0.1 : 1e-4) << "instruction sets differ: format " << int(format) << ' ' << isa_name(isa);
      }
    }
  }, {1}, false);
}

}  // namespace
}  // namespace retort::conformance
