// A backend that computes nothing: it runs a mixer's equations on sizes and records which states they keep and how much
// arithmetic they take. So no mixer declares its state table by hand, and `inspect` cannot disagree with the runtime.
//
// Layer: mixers.
#pragma once

#include <vector>

#include "mixers/list.h"

namespace retort {

// One stateful operation, in the order in which the equations call it. Sizes are per sequence.
struct StateSlot {
  enum class Kind {
    kConv,        // the last inputs of short_conv (rows = taps - 1) or previous (1): rows, columns
    kLeaving,     // the last window.size inputs: rows = window.size, columns
    kCache,       // softmax attention: keys and values; rows = window + sinks, or -1: grows with the context
    kRecurrence,  // rows = kv_heads * key_dim, columns = value_dim (+ 1)
  };
  Kind kind;
  int64_t rows = 0;
  int64_t columns = 0;         // kCache: key columns + value columns
  RecurrenceSpec recurrence;   // kRecurrence
  int kv_heads = 0;            // kCache
  int64_t key_columns = 0;     // kCache

  // Numbers held after `tokens` tokens.
  int64_t numbers(int64_t tokens) const {
    if (kind != Kind::kCache) return rows * columns;
    return (rows < 0 || tokens < rows ? tokens : rows) * columns;
  }
};

class ProbeOps {
 public:
  struct Tensor {
    int columns = 0;
    explicit operator bool() const { return columns > 0; }
  };
  struct Weight {
    Weight(const TensorSpec* s = nullptr) : spec(s) {}
    const TensorSpec* spec;
    explicit operator bool() const { return spec && spec->present(); }
  };
  struct Pair {
    Tensor values, maximum;
  };

  explicit ProbeOps(const PartShape& shape) : shape_(shape) {}

  Tensor linear(Tensor, Weight w, Weight = Weight()) {
    macs += w.spec->count();
    return {static_cast<int>(w.spec->shape[0])};
  }
  Tensor head_linear(Tensor, Weight w, Weight, int heads) {
    macs += w.spec->count() / w.spec->shape[0] * heads;
    return {heads * static_cast<int>(w.spec->shape[1])};
  }
  Tensor short_conv(Tensor x, Weight w, Weight) {
    states.push_back({StateSlot::Kind::kConv, w.spec->shape[1] - 1, x.columns});
    return x;
  }
  Tensor leaving(Tensor x) {
    if (shape_.window.size > 0) states.push_back({StateSlot::Kind::kLeaving, shape_.window.size, x.columns});
    return x;
  }
  Tensor previous(Tensor x) {
    states.push_back({StateSlot::Kind::kConv, 1, x.columns});
    return x;
  }
  Tensor rope(Tensor x, int) { return x; }
  Tensor rms_norm_heads(Tensor x, Weight, int, double) { return x; }
  Tensor softmax_heads(Tensor x, int) { return x; }
  Pair exp_heads(Tensor x, int heads) { return {x, {heads}}; }
  Tensor center_heads(Tensor x, int) { return x; }
  Tensor mirror_heads(Tensor x, int) { return {2 * x.columns}; }
  Tensor square_heads(Tensor x, int heads) { return {x.columns * (x.columns / heads + 1) / 2}; }
  Tensor repeat_heads(Tensor x, int, int times) { return {x.columns * times}; }
  Tensor dot_heads(Tensor, Tensor, int heads) { return {heads}; }
  Tensor sigmoid(Tensor x) { return x; }
  Tensor log_sigmoid(Tensor x) { return x; }
  Tensor silu(Tensor x) { return x; }
  Tensor neg(Tensor x) { return x; }
  Tensor tanh(Tensor x) { return x; }
  Tensor exp(Tensor x) { return x; }
  Tensor one_minus_exp(Tensor x) { return x; }
  Tensor add(Tensor a, Tensor) { return a; }
  Tensor mul(Tensor a, Tensor) { return a; }
  Tensor add_row(Tensor x, Weight) { return x; }
  Tensor mul_row(Tensor x, Weight) { return x; }
  Tensor mul_exp_row(Tensor x, Weight) { return x; }
  Tensor same_row(Tensor, const std::vector<double>& values) { return {static_cast<int>(values.size())}; }
  Tensor scale(Tensor x, double) { return x; }
  Tensor mul_heads(Tensor x, Tensor, int) { return x; }
  Tensor columns(Tensor, int, int count) { return {count}; }
  Normalised<Tensor> attention(Tensor, Tensor k, Tensor v, int heads, int kv_heads, WindowConfig window) {
    const int64_t rows = window.size > 0 ? window.size + window.sinks : -1;
    states.push_back({StateSlot::Kind::kCache, rows, k.columns + v.columns, {}, kv_heads, k.columns});
    return {{heads * v.columns / kv_heads}, {heads}};
  }
  Normalised<Tensor> recurrence(const RecurrenceSpec& spec, const RecurrenceInputs<ProbeOps>&) {
    states.push_back({StateSlot::Kind::kRecurrence, int64_t(spec.kv_heads) * spec.key_dim, spec.state_columns(), spec});
    return {{spec.heads * spec.value_dim}, {spec.joins() ? spec.heads : 0}};
  }
  Tensor join(Normalised<Tensor> a, Normalised<Tensor>, int) { return a.out; }

  std::vector<StateSlot> states;
  int64_t macs = 0;  // multiply-adds per token in projections

 private:
  const PartShape& shape_;
};

// The states of one part, in call order.
inline std::vector<StateSlot> part_states(const ModelConfig& config, const Part& part) {
  const PartShape shape = part_shape(config, part);
  const auto table = part_tensors(config, part);
  std::vector<ProbeOps::Weight> weights;
  for (const auto& spec : table) weights.emplace_back(&spec);
  ProbeOps ops(shape);
  visit_mixer(part.mixer, [&](auto tag) {
    using Mixer = typename decltype(tag)::type;
    part_forward<Mixer>(ops, *parse_config<Mixer>(part.config), shape, weights.data(), {config.width});
  });
  return ops.states;
}

}  // namespace retort
