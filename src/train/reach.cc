#include "train/reach.h"

#include <algorithm>

namespace retort::train {
namespace {

// A backend that computes nothing: every column of a tensor is the set of what it depends on, one bit for a tensor of the part, or for each of
// its InitBlocks where rows of different kinds share it.
class DependencyOps {
 public:
  using Set = uint64_t;
  struct Tensor {
    std::vector<Set> columns;
    explicit operator bool() const { return !columns.empty(); }
  };
  struct Weight {
    Weight(const TensorSpec* s = nullptr, int f = 0) : spec(s), first(f) {}
    const TensorSpec* spec;
    int first;  // its first bit
    explicit operator bool() const { return spec && spec->present(); }
  };
  struct Pair {
    Tensor values, maximum;
  };

  static bool in_blocks(const TensorSpec& spec) { return spec.heads == HeadAxis::kRowsOfBlocks; }

  static Set all(const Tensor& x) {
    Set set = 0;
    for (const Set column : x.columns) set |= column;
    return set;
  }
  static Set all(const Weight& w) {
    if (!w) return 0;
    const size_t bits = in_blocks(*w.spec) ? w.spec->init.size() : 1;
    return ((Set(1) << bits) - 1) << w.first;
  }

  Tensor linear(const Tensor& x, const Weight& w, const Weight& b = Weight()) const { return rows(Tensor{{all(x)}}, w.spec->shape[0], w, b); }
  Tensor head_linear(const Tensor& x, const Weight& w, const Weight& b, int heads) const {
    return same(heads * w.spec->shape[1], all(x) | all(w) | all(b));
  }
  Tensor short_conv(const Tensor& x, const Weight& w, const Weight& b) const { return rows(x, w.spec->shape[0], w, b); }
  Tensor leaving(const Tensor& x) const { return x; }
  Tensor previous(const Tensor& x) const { return x; }
  Tensor rope(const Tensor& x, int) const { return mixed(x); }
  Tensor rms_norm_heads(const Tensor& x, const Weight& w, int, double) const { return same(width(x), all(x) | all(w)); }
  Tensor softmax_heads(const Tensor& x, int) const { return mixed(x); }
  Pair exp_heads(const Tensor& x, int heads) const { return {mixed(x), same(heads, all(x))}; }
  Tensor center_heads(const Tensor& x, int) const { return mixed(x); }
  Tensor mirror_heads(const Tensor& x, int) const { return same(2 * width(x), all(x)); }
  Tensor square_heads(const Tensor& x, int heads) const { return same(width(x) * (width(x) / heads + 1) / 2, all(x)); }
  Tensor repeat_heads(const Tensor& x, int, int times) const { return same(width(x) * times, all(x)); }
  Tensor dot_heads(const Tensor& a, const Tensor& b, int heads) const { return same(heads, all(a) | all(b)); }
  Tensor sigmoid(const Tensor& x) const { return x; }
  Tensor log_sigmoid(const Tensor& x) const { return x; }
  Tensor silu(const Tensor& x) const { return x; }
  Tensor neg(const Tensor& x) const { return x; }
  Tensor tanh(const Tensor& x) const { return x; }
  Tensor exp(const Tensor& x) const { return x; }
  Tensor one_minus_exp(const Tensor& x) const { return x; }
  Tensor scale(const Tensor& x, double) const { return x; }
  Tensor add(Tensor a, const Tensor& b) const {
    for (size_t i = 0; i < a.columns.size(); ++i) a.columns[i] |= b.columns[i];
    return a;
  }
  Tensor mul(const Tensor& a, const Tensor& b) const { return add(a, b); }
  Tensor add_row(const Tensor& x, const Weight& v) const { return rows(x, width(x), v, Weight()); }
  Tensor mul_row(const Tensor& x, const Weight& v) const { return rows(x, width(x), v, Weight()); }
  Tensor mul_exp_row(const Tensor& x, const Weight& v) const { return rows(x, width(x), v, Weight()); }
  Tensor same_row(const Tensor&, const std::vector<double>& values) const { return same(int64_t(values.size()), 0); }
  Tensor mul_heads(Tensor x, const Tensor& g, int) const {
    for (Set& column : x.columns) column |= all(g);
    return x;
  }
  Tensor columns(const Tensor& x, int first, int count) const {
    return {{x.columns.begin() + first, x.columns.begin() + first + count}};
  }

 private:
  static int64_t width(const Tensor& x) { return int64_t(x.columns.size()); }
  static Tensor same(int64_t columns, Set set) { return {std::vector<Set>(size_t(columns), set)}; }
  static Tensor mixed(const Tensor& x) { return same(width(x), all(x)); }

  static Set row(const Weight& w, int64_t r) {
    if (!w || !in_blocks(*w.spec)) return all(w);
    int bit = w.first;
    for (const InitBlock& block : w.spec->init) {
      if (r < block.rows) break;
      r -= block.rows, ++bit;
    }
    return Set(1) << bit;
  }
  // Column c has x's own (or only) one, and row c of w and b.
  static Tensor rows(const Tensor& x, int64_t columns, const Weight& w, const Weight& b) {
    Tensor y = same(columns, 0);
    for (int64_t c = 0; c < columns; ++c) y.columns[size_t(c)] = x.columns[width(x) == 1 ? 0 : size_t(c)] | row(w, c) | row(b, c);
    return y;
  }
};

template <class Mixer>
DependencyOps::Set matrix_set(const typename Mixer::Config& config, const PartShape& shape, const std::vector<DependencyOps::Weight>& weights) {
  DependencyOps ops;
  const DependencyOps::Tensor x{std::vector<DependencyOps::Set>(size_t(shape.width), 0)};
  const auto in = Mixer::template inputs<DependencyOps>(ops, config, shape, weights.data(), x);
  DependencyOps::Set set = 0;
  const auto add = [&](const auto&... sources) { ((set |= DependencyOps::all(sources)), ...); };
  if constexpr (!Mixer::kRecurrent) {
    add(in.local_q, in.local_k);
  } else {
    add(in.q, in.k, in.log_decay, in.decay_rate, in.erase, in.erase_key, in.skip);
    if (shape.window.size > 0) {
      add(in.local_q, in.local_k);
      for (int j = 0; j < join::kCount; ++j) add(weights[size_t(Mixer::kWeightCount + j)]);
    }
  }
  return set;
}

std::vector<ElementRange> ranges_of(const TensorSpec& spec, int first, DependencyOps::Set set) {
  const auto has = [&](size_t bit) { return (set >> (size_t(first) + bit) & 1) != 0; };
  if (!DependencyOps::in_blocks(spec)) return has(0) ? std::vector<ElementRange>{{0, spec.count()}} : std::vector<ElementRange>{};
  const int64_t row = spec.count() / spec.shape[0];
  std::vector<ElementRange> out;
  int64_t begin = 0;
  for (size_t b = 0; b < spec.init.size(); ++b) {
    const int64_t count = spec.init[b].rows * row;
    if (has(b) && !out.empty() && out.back().first + out.back().count == begin) out.back().count += count;
    else if (has(b)) out.push_back({begin, count});
    begin += count;
  }
  return out;
}

void add_part(const StageSpec& stage, const ModelConfig& config, int layer, int index, Reached& out) {
  const Part& part = config.plan[size_t(layer)].parts[size_t(index)];
  const auto table = part_tensors(config, part);
  const std::string prefix = part_prefix(config, layer, index);
  const LossSpec* attn_out = stage.find(LossKind::kAttnOut);
  const bool output = stage.find(LossKind::kHidden) || (attn_out && !attn_out->at_heads);
  if (output || attn_out) {
    int projection = -1;
    visit_mixer(part.mixer, [&](auto tag) { projection = decltype(tag)::type::kOutput; });
    for (size_t i = 0; i < table.size(); ++i) {
      if (table[i].present() && (output || int(i) != projection)) out[prefix + table[i].name] = {{0, table[i].count()}};
    }
    return;
  }
  const auto behind = behind_matrix(config, part);
  for (size_t i = 0; i < table.size(); ++i) {
    if (!behind[i].empty()) out[prefix + table[i].name] = behind[i];
  }
}

// What a mixer's recurrence is, whatever the sizes; attention has none: the usual values.
RecurrenceSpec recurrence_of(const Part& part, bool& recurrent) {
  PartShape shape;
  shape.width = shape.heads = shape.kv_heads = shape.head_dim = 1;
  RecurrenceSpec spec;
  visit_mixer(part.mixer, [&](auto tag) {
    using Mixer = typename decltype(tag)::type;
    recurrent = Mixer::kRecurrent;
    if constexpr (Mixer::kRecurrent) spec = Mixer::recurrence(*parse_config<Mixer>(part.config), shape);
  });
  return spec;
}

}  // namespace

bool mixes_by_matrix(const Part& part) {
  bool recurrent = false;
  return recurrence_of(part, recurrent).decay != Decay::kPerCell;
}

bool rows_sum_to_one(const Part& part) {
  bool recurrent = false;
  const bool joins = recurrence_of(part, recurrent).joins();
  return joins || !recurrent;
}

std::vector<std::vector<ElementRange>> behind_matrix(const ModelConfig& config, const Part& part) {
  const PartShape shape = part_shape(config, part);
  const auto table = part_tensors(config, part);
  std::vector<DependencyOps::Weight> weights;
  int bits = 0;
  for (const TensorSpec& spec : table) {
    weights.emplace_back(&spec, bits);
    bits += DependencyOps::in_blocks(spec) ? int(spec.init.size()) : 1;
  }
  RETORT_CHECK(bits <= 64, "more tensors than a set has bits");
  DependencyOps::Set set = 0;
  visit_mixer(part.mixer, [&](auto tag) {
    using Mixer = typename decltype(tag)::type;
    set = matrix_set<Mixer>(*parse_config<Mixer>(part.config), shape, weights);
  });
  std::vector<std::vector<ElementRange>> out;
  for (size_t i = 0; i < table.size(); ++i) {
    out.push_back(table[i].present() ? ranges_of(table[i], weights[i].first, set) : std::vector<ElementRange>{});
  }
  return out;
}

Reached reached(const StageSpec& stage, const ModelConfig& student) {
  const bool block = stage.find(LossKind::kHidden) != nullptr;
  Reached out;
  for (const TensorSpec& spec : model_tensors(student)) {
    const auto has = [&](const char* piece) { return spec.name.find(piece) != std::string::npos; };
    const bool in_block = has("layernorm.") || has(".mlp.");
    if (!stage.layer_wise() || has(".input_layernorm.") || (block && in_block)) out[spec.name] = {{0, spec.count()}};
  }
  if (!stage.layer_wise()) return out;
  for (int l = 0; l < student.layers; ++l) {
    for (size_t p = 0; p < student.plan[size_t(l)].parts.size(); ++p) add_part(stage, student, l, int(p), out);
  }
  return out;
}

}  // namespace retort::train
