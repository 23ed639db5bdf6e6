// How near a student's token mixers are to its teacher's attention, layer by layer and without training: both are fed the teacher's own
// hidden states of a short text.
//
// Layer: eval. In double precision with the reference operations, so it takes seconds: meant for some dozens of tokens.
//
//   output_error     |Y_student - Y_teacher| / |Y_teacher|, Y the mixer's share of the layer's output [T, D], Frobenius norms
//   matrix_distance  |M - A| averaged over heads (mixers.md 1): A the teacher's attention matrix, M the student's mixing matrix,
//                    with its normaliser, and with an exact window both of its sides as they are joined; what comes after (norm,
//                    output gate, a skip of the readout, output projection) and convolutions before are no part of it
#pragma once

#include <span>
#include <vector>

#include "io/model_files.h"
#include "mixers/reference_ops.h"
#include "runtime/model.h"

namespace retort {

struct LayerMatch {
  int layer = 0;
  double output_error = 0;
  double matrix_distance = 0;
  double matrix_norm = 0;  // |A| averaged over heads: what matrix_distance is to be compared with
};

// An error where a teacher and a student cannot be compared layer by layer: the teacher is attention in every layer, the sizes are the same.
Status check_comparable(const ModelConfig& teacher, const ModelConfig& student);

class LayerMatcher {
 public:
  // Reads the text once; the files live as long as the matcher.
  static Result<LayerMatcher> make(const ModelFiles& teacher, std::span<const int> tokens, ThreadPool& pool);
  // Thread-safe.
  Result<LayerMatch> match(const ModelFiles& student, int layer) const;
  Result<double> output_error(const ModelFiles& student, int layer) const;  // alone, and sooner

 private:
  explicit LayerMatcher(const ModelFiles& teacher) : teacher_(&teacher) {}
  const ModelFiles* teacher_;
  std::vector<ReferenceOps::Tensor> hidden_;  // [layers] of [T, D]: the teacher's states before each layer
};
// Every layer.
Result<std::vector<LayerMatch>> match_layers(const ModelFiles& teacher, const ModelFiles& student, std::span<const int> tokens,
                                             ThreadPool& pool);

// One head's mixing matrix, [t][s] for s <= t.
using MixingMatrix = std::vector<std::vector<double>>;

// Of every head of a part, for one sequence x [T, D] from its start.
template <class Mixer>
std::vector<MixingMatrix> mixing_matrices(const typename Mixer::Config& config, const PartShape& shape,
                                          const std::vector<ReferenceOps::Weight>& weights, const ReferenceOps::Tensor& x) {
  ReferenceState state;
  ReferenceOps ops(shape, ReferenceForm::kMatrix);
  ops.begin({{&state, x.rows}});
  const auto in = Mixer::template inputs<ReferenceOps>(ops, config, shape, weights.data(), x);
  std::vector<MixingMatrix> near(size_t(shape.heads)), far(size_t(shape.heads));
  const auto collect = [&] {
    for (auto& m : ops.matrices) (m.recurrent ? far : near)[size_t(m.head)] = std::move(m.weights);
  };
  if constexpr (!Mixer::kRecurrent) {
    local_attention(ops, shape, in);
    collect();
    return near;
  } else {
    const RecurrenceSpec spec = part_recurrence<Mixer>(config, shape);
    if (shape.window.size == 0) {
      ops.recurrence(spec, in);
      collect();
      for (int h = 0; in.skip && h < shape.heads; ++h) {
        for (size_t t = 0; t < far[size_t(h)].size(); ++t) far[size_t(h)][t][t] += in.skip[h];
      }
      return far;
    }
    const auto local = local_attention(ops, shape, in);
    auto recurrent = ops.recurrence(spec, in);
    collect();
    const ReferenceOps::Weight* j = weights.data() + Mixer::kWeightCount;
    const auto gate = ops.linear(x, j[join::kGateWeight], j[join::kGateBias]);
    for (int h = 0; h < shape.heads; ++h) {
      MixingMatrix &a = near[size_t(h)], &b = far[size_t(h)];
      for (int64_t t = 0; t < x.rows; ++t) {
        double from_near = 1, from_far = 1 / (1 + std::exp(-gate.row(t)[h]));
        if (spec.joins()) {
          const double log_near = local.log_norm.row(t)[h];
          const double log_far = gate.row(t)[h] + j[join::kGamma][h] * recurrent.log_norm.row(t)[h] - (j[join::kRho][h] - 1) * log_near;
          from_far = 1 / (1 + std::exp(log_near - log_far));
          from_near = 1 - from_far;
        }
        for (double& e : a[size_t(t)]) e *= from_near;
        // What was written at s had left the window: it is token s - window.size.
        for (int64_t s = shape.window.size; s <= t; ++s) a[size_t(t)][size_t(s - shape.window.size)] += from_far * b[size_t(t)][size_t(s)];
      }
    }
    return near;
  }
}

}  // namespace retort
