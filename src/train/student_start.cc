#include "train/student_start.h"

#include <algorithm>
#include <random>

#include "mixers/list.h"
#include "mixers/slots_start.h"
#include "train/tasks.h"

namespace retort::train {
namespace {

const char* source_name(TeacherSource source) {
  switch (source) {
    case TeacherSource::kQuery: return "q_proj";
    case TeacherSource::kKey:
    case TeacherSource::kKeyExpanded: return "k_proj";
    case TeacherSource::kValue:
    case TeacherSource::kValueExpanded: return "v_proj";
    case TeacherSource::kOutput: return "o_proj";
    case TeacherSource::kQueryNorm: return "q_norm";
    case TeacherSource::kKeyNorm: return "k_norm";
    case TeacherSource::kNone: break;
  }
  return "";
}

// Rows (of kOutput: columns) of the heads that a part owns, in its order.
std::vector<int64_t> owned_rows(TeacherSource source, const ModelConfig& c, const std::vector<int>& kv_heads) {
  std::vector<int64_t> rows;
  const int64_t d = c.head_dim, n = c.group();
  const auto block = [&](int64_t first, int64_t count) {
    for (int64_t i = 0; i < count; ++i) rows.push_back(first + i);
  };
  for (int64_t g : kv_heads) {
    if (source == TeacherSource::kQuery || source == TeacherSource::kOutput) {
      block(g * n * d, n * d);
    } else {
      const bool expanded = source == TeacherSource::kKeyExpanded || source == TeacherSource::kValueExpanded;
      for (int64_t i = 0; i < (expanded ? n : 1); ++i) block(g * d, d);
    }
  }
  return rows;
}

Result<at::Tensor> teacher_block(const WeightStore& store, const ModelConfig& c, int layer, const InitBlock& block, const PartWeights& part,
                                 int64_t rows, const std::vector<int64_t>& shape) {
  const std::string name = cat("model.layers.", layer, ".self_attn.", source_name(block.source), block.bias ? ".bias" : ".weight");
  if (block.bias && !store.has(name)) return at::zeros({rows});
  RETORT_TRY(auto view, store.tensor(name));
  RETORT_TRY(auto values, read_f32(view));
  at::Tensor whole = torch::from_blob(values.data(), view.shape, at::kFloat).clone();
  const bool norm = block.source == TeacherSource::kQueryNorm || block.source == TeacherSource::kKeyNorm;
  if (!norm) {
    const at::Tensor index = torch::tensor(owned_rows(block.source, c, part.part.kv_heads), at::kLong);
    whole = whole.index_select(block.source == TeacherSource::kOutput ? 1 : 0, index);
  }
  if (whole.size(0) != rows || whole.numel() * shape[0] != rows * c10::multiply_integers(shape)) {
    return internal_error("start of ", part.prefix, ": ", name, " does not fill its block");
  }
  return whole * block.scale;
}

uint64_t name_seed(uint64_t seed, const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325ull ^ seed;
  for (unsigned char byte : name) hash = (hash ^ byte) * 0x100000001b3ull;
  return hash;
}

// The block's values, shaped as `rows` rows of the tensor.
Result<at::Tensor> block_values(const WeightStore& store, const ModelConfig& c, int layer, uint64_t seed, const InitBlock& block,
                                const PartWeights& part, const TensorSpec& spec, int64_t rows) {
  std::vector<int64_t> shape = spec.shape;
  shape[0] = rows;
  switch (block.kind) {
    case InitBlock::Kind::kTeacher: {
      RETORT_TRY(auto values, teacher_block(store, c, layer, block, part, rows, spec.shape));
      return values.reshape(shape);
    }
    case InitBlock::Kind::kConstant: return at::full(shape, block.value, at::kFloat);
    case InitBlock::Kind::kNormal: {
      auto generator = at::detail::createCPUGenerator(name_seed(seed, part.prefix + spec.name));
      return at::normal(0.0, block.value, shape, generator);
    }
    case InitBlock::Kind::kIdentityConv: {
      at::Tensor conv = at::zeros(shape);
      conv.select(-1, shape.back() - 1).fill_(1);
      return conv;
    }
    case InitBlock::Kind::kIdentityPerHead:
      return at::eye(shape[shape.size() - 2], shape.back()).expand(shape).contiguous();
    case InitBlock::Kind::kLinspace:
      return at::linspace(block.value, block.last, c10::multiply_integers(shape)).view(shape);
  }
  return internal_error("unknown start of ", spec.name);
}

}  // namespace

Status fill_start(const WeightStore& teacher, const ModelConfig& config, int layer, uint64_t seed, PartWeights& part) {
  for (size_t i = 0; i < part.table.size(); ++i) {
    const TensorSpec& spec = part.table[i];
    if (!spec.present()) continue;
    std::vector<at::Tensor> blocks;
    int64_t filled = 0;
    for (const InitBlock& block : spec.init) {
      const int64_t rows = block.rows > 0 ? block.rows : spec.shape[0] - filled;
      RETORT_TRY(auto values, block_values(teacher, config, layer, seed, block, part, spec, rows));
      blocks.push_back(values);
      filled += rows;
    }
    if (filled != spec.shape[0]) return internal_error("start of ", part.prefix, spec.name, ": ", filled, " of ", spec.shape[0], " rows");
    part.values[i] = at::cat(blocks).to(at::kFloat).contiguous();
  }
  return {};
}

Status fill_from(const PartWeights& source, PartWeights& part) {
  std::vector<int64_t> kv, query;  // positions of this part's heads among the source's
  const int64_t group = part.shape.group();
  for (int g : part.part.kv_heads) {
    const auto found = std::find(source.part.kv_heads.begin(), source.part.kv_heads.end(), g);
    if (found == source.part.kv_heads.end()) return internal_error(part.prefix, ": kv head ", g, " is not in the source");
    kv.push_back(found - source.part.kv_heads.begin());
    for (int64_t i = 0; i < group; ++i) query.push_back(kv.back() * group + i);
  }
  const bool whole = kv.size() == source.part.kv_heads.size();
  for (size_t i = 0; i < part.table.size(); ++i) {
    const at::Tensor& from = source.values[i];
    if (!from.defined()) continue;
    const HeadAxis axis = part.table[i].heads;
    if (whole || axis == HeadAxis::kShared) {
      part.values[i] = from.detach().to(at::kFloat).clone();
      continue;
    }
    if (axis == HeadAxis::kMixed) {
      return invalid("student: ", source.prefix, part.table[i].name, " of mixer '", part.part.mixer,
                     "' cannot be cut by heads; keep whole layers, or start from the teacher");
    }
    const bool by_kv = axis == HeadAxis::kKvRows;
    const int64_t dim = axis == HeadAxis::kQueryColumns ? 1 : 0, heads = by_kv ? source.shape.kv_heads : source.shape.heads;
    const at::Tensor index = torch::tensor(by_kv ? kv : query, at::kLong);
    auto shape = from.sizes().vec();
    shape[dim] /= heads;
    shape.insert(shape.begin() + dim, heads);
    part.values[i] = from.detach().to(at::kFloat).reshape(shape).index_select(dim, index).reshape(part.table[i].shape).contiguous();
  }
  return {};
}

namespace {

// Keys and moments of queries of one layer, all heads. keys[g] is [T, d], moments[g] is [group, d, d].
struct LayerStatistics {
  std::vector<at::Tensor> keys, moments;
};

LayerStatistics measure(const TorchModel& teacher, int layer, const at::Tensor& x) {
  const PartWeights& attention = teacher.layers[layer][0];
  const ModelConfig& c = teacher.config;
  const at::NoGradGuard no_grad;
  Rows none;
  none.total = x.size(0);
  TorchOps ops(none, attention.shape, teacher.numeric);
  std::vector<TorchOps::Weight> weights;
  for (const auto& value : attention.values) weights.push_back({value});
  const auto p = qkv::project<TorchOps>(ops, attention.shape, weights.data(), TorchOps::Tensor(x));
  LayerStatistics s;
  for (int g = 0; g < c.kv_heads; ++g) {
    s.keys.push_back(p.k.t.narrow(1, int64_t(g) * c.head_dim, c.head_dim).to(at::kFloat).contiguous());
    const at::Tensor q = p.q.t.narrow(1, int64_t(g) * c.group() * c.head_dim, int64_t(c.group()) * c.head_dim)
                             .reshape({x.size(0), c.group(), c.head_dim}).transpose(0, 1).to(at::kDouble);
    s.moments.push_back((at::bmm(q.transpose(1, 2), q) / double(x.size(0))).contiguous());
  }
  return s;
}

class PartValues : public StartValues {
 public:
  explicit PartValues(PartWeights& part) : part_(part) {}
  float* block(int weight, int64_t i, int64_t n) override {
    at::Tensor& value = part_.values[size_t(weight)];
    return value.data_ptr<float>() + value.numel() / n * i;
  }

 private:
  PartWeights& part_;
};

// True when the mixer learns from data; does so when `layer` is given.
bool start_part(const ModelConfig& c, const LayerStatistics* layer, uint64_t seed, PartWeights& part) {
  bool learns = false;
  visit_mixer(part.part.mixer, [&](auto tag) {
    using Mixer = typename decltype(tag)::type;
    if constexpr (requires { &DataStart<Mixer>::fill; }) {
      learns = true;
      if (!layer) return;
      const auto config = parse_config<Mixer>(part.part.config);
      PartValues values(part);
      for (size_t h = 0; h < part.part.kv_heads.size(); ++h) {
        const int g = part.part.kv_heads[h];
        const HeadStatistics head{layer->keys[g].size(0), c.head_dim, c.group(), layer->keys[g].template data_ptr<float>(),
                                  layer->moments[g].template data_ptr<double>(), c.rope, name_seed(seed, cat(part.prefix, g))};
        DataStart<Mixer>::fill(*config, part.shape, head, int(h), values);
      }
    }
  });
  return learns;
}

}  // namespace

Status start_from_data(const TorchModel& teacher, const Batch& batch, uint64_t seed, ThreadPool& pool,
                       std::vector<std::vector<PartWeights>>& parts) {
  const int layers = teacher.config.layers;
  std::vector<bool> wanted(layers, false);
  for (int l = 0; l < layers; ++l) {
    for (PartWeights& part : parts[l]) wanted[l] = wanted[l] || start_part(teacher.config, nullptr, seed, part);
  }
  if (std::none_of(wanted.begin(), wanted.end(), [](bool w) { return w; })) return {};
  std::vector<std::vector<at::Tensor>> inputs(layers, std::vector<at::Tensor>(batch.rows));
  RETORT_RETURN_IF_ERROR(run_tasks(pool, batch.rows, [&](int64_t r) {
    const at::NoGradGuard no_grad;
    const Rows rows = batch_rows(teacher, batch, int(r), 1);
    run_model(teacher, {batch.tokens.data() + r * batch.seq, size_t(batch.seq)}, rows,
              [&](const LayerView& view) { inputs[view.layer][r] = view.input; });
  }));
  return run_tasks(pool, layers, [&](int64_t l) {
    if (!wanted[l]) return;
    const at::NoGradGuard no_grad;
    const LayerStatistics statistics = measure(teacher, int(l), at::cat(inputs[l]));
    for (PartWeights& part : parts[l]) start_part(teacher.config, &statistics, seed, part);
  });
}

}  // namespace retort::train
