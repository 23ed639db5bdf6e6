#include "eval/layer_match.h"

#include <cmath>

namespace retort {
namespace {

using Tensor = ReferenceOps::Tensor;

// The teacher's hidden states before every layer. [layers] of [T, D]
Result<std::vector<Tensor>> hidden_states(const ModelFiles& teacher, std::span<const int> tokens, ThreadPool& pool) {
  RETORT_TRY(const auto model, Model::load(teacher, WeightFormat::kAuto, pool));
  Engine engine(model, pool);
  std::vector<Tensor> states;
  engine.watch_layers([&](int, const RuntimeOps::Tensor& hidden) {
    Tensor& copy = states.emplace_back(int64_t(tokens.size()), hidden.columns);
    for (int64_t t = 0; t < copy.rows; ++t) std::copy_n(hidden.row(t), hidden.columns, copy.row(t));
  });
  Sequence sequence = model->new_sequence();
  const BatchItem item{&sequence, tokens, WantLogits::kNone};
  RETORT_RETURN_IF_ERROR(engine.forward({&item, 1}, {}));
  return states;
}

Result<ReferenceOps::Weight> read_weight(const WeightStore& store, const std::string& name) {
  RETORT_TRY(const TensorView view, store.tensor(name));
  if (const Status finite = check_finite(view); !finite.ok()) return invalid(store.path(), ": ", finite.error().message);
  RETORT_TRY(const std::vector<float> values, read_f32(view));
  return ReferenceOps::Weight{view.shape, {values.begin(), values.end()}};
}

// A layer's mixers on hidden states: their output [T, D], and the mixing matrices by the layer's own head numbers.
struct Mixed {
  Tensor output;
  std::vector<MixingMatrix> matrices;
};

Status add_part(const ModelFiles& files, int layer, int index, const Tensor& x, bool matrices, Mixed& mixed) {
  const ModelConfig& c = files.config;
  const Part& part = c.plan[size_t(layer)].parts[size_t(index)];
  const PartShape shape = part_shape(c, part);
  std::vector<ReferenceOps::Weight> weights;
  for (const TensorSpec& spec : part_tensors(c, part)) {
    weights.emplace_back();
    if (!spec.present()) continue;
    RETORT_TRY(weights.back(), read_weight(*files.weights, part_prefix(c, layer, index) + spec.name));
  }
  visit_mixer(part.mixer, [&](auto tag) {
    using Mixer = typename decltype(tag)::type;
    const auto config = *parse_config<Mixer>(part.config);
    ReferenceState state;
    ReferenceOps ops(shape);
    ops.begin({{&state, x.rows}});
    const Tensor y = part_forward<Mixer>(ops, config, shape, weights.data(), x);
    mixed.output = mixed.output ? ops.add(mixed.output, y) : y;
    if (!matrices) return;
    auto own = mixing_matrices<Mixer>(config, shape, weights, x);
    for (int h = 0; h < shape.heads; ++h) {
      mixed.matrices[size_t(part.kv_heads[size_t(h / shape.group())] * shape.group() + h % shape.group())] = std::move(own[size_t(h)]);
    }
  });
  return {};
}

Result<Mixed> mix(const ModelFiles& files, int layer, const Tensor& hidden, bool matrices) {
  const ModelConfig& c = files.config;
  RETORT_TRY(const auto norm, read_weight(*files.weights, cat("model.layers.", layer, ".input_layernorm.weight")));
  const Tensor x = ReferenceOps(PartShape()).rms_norm_heads(hidden, norm, 1, c.norm_eps);
  Mixed mixed{{}, std::vector<MixingMatrix>(size_t(c.heads))};
  for (size_t p = 0; p < c.plan[size_t(layer)].parts.size(); ++p) RETORT_RETURN_IF_ERROR(add_part(files, layer, int(p), x, matrices, mixed));
  return mixed;
}

// |a - b|; b may be empty.
double norm_of_difference(const MixingMatrix& a, const MixingMatrix* b) {
  double squares = 0;
  for (size_t t = 0; t < a.size(); ++t) {
    for (size_t s = 0; s < a[t].size(); ++s) squares += std::pow(a[t][s] - (b ? (*b)[t][s] : 0), 2);
  }
  return std::sqrt(squares);
}

double relative_error(const Tensor& teacher, const Tensor& student) {
  double error = 0, size = 0;
  for (size_t i = 0; i < teacher.values.size(); ++i) {
    error += std::pow(student.values[i] - teacher.values[i], 2);
    size += std::pow(teacher.values[i], 2);
  }
  return size > 0 ? std::sqrt(error / size) : 0;
}

LayerMatch compare(int layer, const Mixed& teacher, const Mixed& student) {
  LayerMatch match{layer};
  match.output_error = relative_error(teacher.output, student.output);
  const size_t heads = teacher.matrices.size();
  for (size_t h = 0; h < heads; ++h) {
    match.matrix_distance += norm_of_difference(teacher.matrices[h], &student.matrices[h]) / double(heads);
    match.matrix_norm += norm_of_difference(teacher.matrices[h], nullptr) / double(heads);
  }
  return match;
}

}  // namespace

Status check_comparable(const ModelConfig& teacher, const ModelConfig& student) {
  for (const LayerPlan& layer : teacher.plan) {
    if (layer.parts.size() != 1 || layer.parts[0].mixer != "attention") {
      return invalid("the teacher is not attention in every layer (", layout_string(teacher), ")");
    }
  }
  const auto sizes = [](const ModelConfig& c) {
    return cat(c.layers, " layers, width ", c.width, ", ", c.heads, " heads of ", c.head_dim, ", ", c.kv_heads, " kv heads, vocabulary ",
               c.vocab_size);
  };
  if (sizes(teacher) != sizes(student)) return invalid("the sizes differ: teacher ", sizes(teacher), "; student ", sizes(student));
  return {};
}

Result<LayerMatcher> LayerMatcher::make(const ModelFiles& teacher, std::span<const int> tokens, ThreadPool& pool) {
  RETORT_RETURN_IF_ERROR(check_comparable(teacher.config, teacher.config));
  LayerMatcher out(teacher);
  RETORT_TRY(out.hidden_, hidden_states(teacher, tokens, pool));
  return out;
}

Result<LayerMatch> LayerMatcher::match(const ModelFiles& student, int layer) const {
  RETORT_RETURN_IF_ERROR(check_comparable(teacher_->config, student.config));
  RETORT_TRY(const Mixed theirs, mix(*teacher_, layer, hidden_[size_t(layer)], true));
  RETORT_TRY(const Mixed own, mix(student, layer, hidden_[size_t(layer)], true));
  return compare(layer, theirs, own);
}

Result<double> LayerMatcher::output_error(const ModelFiles& student, int layer) const {
  RETORT_RETURN_IF_ERROR(check_comparable(teacher_->config, student.config));
  RETORT_TRY(const Mixed theirs, mix(*teacher_, layer, hidden_[size_t(layer)], false));
  RETORT_TRY(const Mixed own, mix(student, layer, hidden_[size_t(layer)], false));
  return relative_error(theirs.output, own.output);
}

Result<std::vector<LayerMatch>> match_layers(const ModelFiles& teacher, const ModelFiles& student, std::span<const int> tokens,
                                             ThreadPool& pool) {
  RETORT_RETURN_IF_ERROR(check_comparable(teacher.config, student.config));
  RETORT_TRY(const LayerMatcher matcher, LayerMatcher::make(teacher, tokens, pool));
  std::vector<Result<LayerMatch>> matches(size_t(teacher.config.layers), LayerMatch());
  pool.run_chunks(int64_t(matches.size()), [&](int64_t l) { matches[size_t(l)] = matcher.match(student, int(l)); });
  std::vector<LayerMatch> out;
  for (auto& match : matches) {
    RETORT_TRY(out.emplace_back(), std::move(match));
  }
  return out;
}

}  // namespace retort
