// Small worlds for the conformance suite: every mixer of the registry, alone and joined with a window, every field of its config at
// its least and most, with random weights (not the initial ones, so that every gate does something). No mixer is named here; a new
// one is tested as it is listed.
#pragma once

#include <gtest/gtest.h>

#include <random>

#include "mixers/probe_ops.h"
#include "mixers/reference_ops.h"

namespace retort::conformance {

struct World {
  std::string name;
  bool corner = false;  // of the mixer's config
  ModelConfig config;
  PartShape shape;
  std::vector<TensorSpec> table;
  std::vector<ReferenceOps::Weight> weights;  // every value is a float

  const Part& part() const { return config.plan[0].parts[0]; }
};

// `loudness` multiplies every matrix that is not inherited from attention, and the gates' constants: decays from ~1 to ~e^-20.
inline void fill_weights(World& w, std::mt19937& random, double loudness) {
  std::normal_distribution<double> normal;
  for (const TensorSpec& spec : w.table) {
    ReferenceOps::Weight weight{spec.shape, std::vector<double>(size_t(spec.count()))};
    const bool vector = spec.shape.size() < 2;
    const double loud = spec.group == TrainGroup::kProjection ? 1 : loudness;
    const double base = vector && !spec.init.empty() && spec.init[0].kind == InitBlock::Kind::kConstant ? spec.init[0].value : 0;
    const double spread = vector ? 0.2 : loud / std::sqrt(double(spec.shape.back()));
    for (double& e : weight.values) e = float(base + spread * normal(random));
    w.weights.push_back(std::move(weight));
  }
}

struct Variant {
  WindowConfig window;
  bool biases = false;  // q, k, v biases and q, k norms
  double loudness = 1;
  nlohmann::json fields = nlohmann::json::object();  // that differ from the mixer's defaults
};

// Not validated.
template <class Mixer>
ModelConfig world_config(const Variant& v) {
  ModelConfig c;
  c.layers = 1, c.width = 64, c.heads = 4, c.kv_heads = 2, c.head_dim = 16, c.mlp_width = 64, c.vocab_size = 32, c.context_length = 256;
  c.qkv_bias = c.qk_norm = v.biases;
  c.plan = {{{Part{Mixer::kName, {0, 1}, v.window, v.fields}}}};
  return c;
}

template <class Mixer>
World make_world(const Variant& v) {
  World w;
  w.config = world_config<Mixer>(v);
  const ModelConfig& c = w.config;
  const Status status = validate_plan(w.config);
  RETORT_CHECK(status.ok(), status.error().message);
  w.corner = !v.fields.empty();
  w.name = cat(Mixer::kName, v.fields.empty() ? "" : v.fields.dump(), " window ", v.window.size, "+", v.window.sinks,
               v.biases ? " biases" : "", " loudness ", v.loudness);
  w.shape = part_shape(c, w.part());
  w.table = part_tensors(c, w.part());
  std::mt19937 random(unsigned(std::hash<std::string>{}(Mixer::kName)));
  fill_weights(w, random, v.loudness);
  return w;
}

// Every field of a mixer's config at its least and its most, one at a time, the others at their defaults. What is too large for a
// test is halved until it is not; what the plan refuses at these sizes is left out.
template <class Mixer>
struct CornerVisitor {
  WindowConfig window;
  std::vector<nlohmann::json> corners{};

  bool affordable(const nlohmann::json& fields) const {
    ModelConfig c = world_config<Mixer>({window, false, 1, fields});
    if (!validate_plan(c).ok()) return false;
    int64_t numbers = 0;
    for (const TensorSpec& spec : part_tensors(c, c.plan[0].parts[0])) numbers += spec.count();
    for (const StateSlot& slot : part_states(c, c.plan[0].parts[0])) numbers += slot.numbers(c.context_length);
    return numbers < 1 << 16;
  }
  template <class T, class L, class M>
  void operator()(const char* name, T& usual, L least, M most) {
    const auto add = [&](T value) {
      const bool fits = value != usual && affordable({{name, value}});
      if (fits) corners.push_back({{name, value}});
      return fits;
    };
    add(T(least));
    for (T value = T(most); value > usual && !add(value);) value = usual + (value - usual) / 2;
  }
};

// fn(MixerTag<M>, const World&) for every mixer, with every kind of window that it takes; corners of configs only at loudness 1.
template <class Fn>
void for_each_world(Fn&& fn, std::vector<double> loudnesses = {1, 20}, bool corners = true) {
  for_each_mixer([&](auto tag) {
    using Mixer = typename decltype(tag)::type;
    const auto run = [&](const Variant& v) {
      const World w = make_world<Mixer>(v);
      SCOPED_TRACE(w.name);
      fn(tag, w);
    };
    for (WindowConfig window : {WindowConfig{0, 0}, WindowConfig{5, 2}, WindowConfig{3, 0}}) {
      if (Mixer::kNeedsWindow && window.size == 0) continue;
      if (!Mixer::kNeedsWindow && !Mixer::kRecurrent && window.size > 0) continue;
      for (double loudness : loudnesses) {
        for (bool biases : {false, true}) run({window, biases, loudness});
      }
      if (!corners || window.size == 3) continue;
      CornerVisitor<Mixer> visitor{window};
      typename Mixer::Config usual;
      usual.visit(visitor);
      for (const auto& fields : visitor.corners) run({window, window.size > 0, 1, fields});
    }
  });
}

inline ReferenceOps::Tensor random_rows(int64_t rows, int64_t columns, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  ReferenceOps::Tensor x(rows, columns);
  for (double& e : x.values) e = float(normal(random));
  return x;
}

inline ReferenceOps::Tensor slice(const ReferenceOps::Tensor& x, int64_t first, int64_t rows) {
  ReferenceOps::Tensor y(rows, x.columns);
  std::copy(x.row(first), x.row(first) + rows * x.columns, y.values.begin());
  return y;
}

// One call over ragged rows; states move on.
template <class Mixer>
ReferenceOps::Tensor reference(const World& w, ReferenceForm form, std::vector<ReferenceOps::Segment> segments,
                               const ReferenceOps::Tensor& x, int64_t chunk = 7, std::vector<ReferenceOps::Matrix>* matrices = nullptr) {
  ReferenceOps ops(w.shape, form, chunk);
  ops.begin(std::move(segments));
  auto y = part_forward<Mixer>(ops, *parse_config<Mixer>(w.part().config), w.shape, w.weights.data(), x);
  ops.end();
  if (matrices) *matrices = std::move(ops.matrices);
  return y;
}

// The whole of one sequence from an empty state.
template <class Mixer>
ReferenceOps::Tensor reference(const World& w, ReferenceForm form, const ReferenceOps::Tensor& x, int64_t chunk = 7) {
  ReferenceState state;
  return reference<Mixer>(w, form, {{&state, x.rows}}, x, chunk);
}

// Largest difference over the largest value; infinite when anything is not a number.
inline double distance(const std::vector<double>& a, const std::vector<double>& b) {
  double most = 0, size = 1e-30;
  for (size_t i = 0; i < b.size(); ++i) {
    const double difference = std::fabs(a[i] - b[i]);
    if (!std::isfinite(difference)) return INFINITY;
    most = std::max(most, difference), size = std::max(size, std::fabs(b[i]));
  }
  return most / size;
}

}  // namespace retort::conformance
