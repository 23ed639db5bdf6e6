#include "train/student_start.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "base/hash.h"
#include "mixers/list.h"
#include "model/head_cut.h"
#include "train/start_tasks.h"
#include "train/start_volume.h"

namespace retort::train {
namespace {

const char* source_name(TeacherSource source) {
  switch (source) {
    case TeacherSource::kQuery: return "q_proj";
    case TeacherSource::kKey: return "k_proj";
    case TeacherSource::kValue: return "v_proj";
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
      block(g * d, d);
    }
  }
  return rows;
}

uint64_t name_seed(uint64_t seed, const std::string& name) { return fnv1a(name, kFnvStart ^ seed); }

bool is_norm(TeacherSource source) { return source == TeacherSource::kQueryNorm || source == TeacherSource::kKeyNorm; }

// Where starts take what they copy from.
struct Origin {
  const WeightStore& store;
  const ModelConfig& config;
  int layer;
  uint64_t seed;
  StudentInit init;

  // A tensor of the layer's attention, all heads.
  Result<at::Tensor> read(const std::string& name, const InitBlock& block) const {
    RETORT_TRY(auto view, store.tensor(name));
    if (init == StudentInit::kRandom) return random(name, block, view.shape);
    RETORT_TRY(auto values, read_f32(view));
    return torch::from_blob(values.data(), view.shape, at::kFloat).clone();
  }

 private:
  at::Tensor random(const std::string& name, const InitBlock& block, const std::vector<int64_t>& shape) const {
    if (block.bias || is_norm(block.source)) return at::full(shape, block.bias ? 0.0 : 1.0, at::kFloat);
    const double residual = block.source == TeacherSource::kOutput ? std::sqrt(2.0 * config.layers) : 1;
    return at::normal(0.0, 1 / (std::sqrt(double(shape[1])) * residual), shape, at::detail::createCPUGenerator(name_seed(seed, name)));
  }
};

Result<at::Tensor> teacher_block(const Origin& from, const InitBlock& block, const PartWeights& part, int64_t rows, const std::vector<int64_t>& shape) {
  const ModelConfig& c = from.config;
  const std::string name = cat("model.layers.", from.layer, ".self_attn.", source_name(block.source), block.bias ? ".bias" : ".weight");
  if (block.bias && !from.store.has(name)) return at::zeros({rows});
  RETORT_TRY(at::Tensor whole, from.read(name, block));
  if (!is_norm(block.source)) {
    const at::Tensor index = torch::tensor(owned_rows(block.source, c, part.part.kv_heads), at::kLong);
    whole = whole.index_select(block.source == TeacherSource::kOutput ? 1 : 0, index);
  }
  if (whole.size(0) != rows || whole.numel() * shape[0] != rows * c10::multiply_integers(shape)) {
    return internal_error("start of ", part.prefix, ": ", name, " does not fill its block");
  }
  return whole * block.scale;
}

// [heads, f, d]: one factor of the best approximation of rank f to every kv head's product of query and key maps (mixers.md section 4).
// With W_Q^T = Q1 R1 and W_K^T = Q2 R2, W_Q stacked over the kv head's query heads, and R1 R2^T = U s V^T, the factors of the maps are
// s^1/2 U^T R1^-T and s^1/2 V^T R2^-T; the query heads of a kv head share theirs.
Result<at::Tensor> low_rank(const Origin& from, TeacherSource side, const PartWeights& part, const std::vector<int64_t>& shape) {
  const ModelConfig& c = from.config;
  const int64_t d = c.head_dim, heads = part.shape.heads, kv_heads = part.shape.kv_heads, group = part.shape.group(), f = shape[1];
  RETORT_TRY(auto queries, teacher_block(from, InitBlock::teacher(TeacherSource::kQuery), part, heads * d, {heads * d, c.width}));
  RETORT_TRY(auto keys, teacher_block(from, InitBlock::teacher(TeacherSource::kKey), part, kv_heads * d, {kv_heads * d, c.width}));
  const auto triangle = [](const at::Tensor& rows) { return std::get<1>(at::linalg_qr(rows, "r")); };
  const int64_t rank = std::min(f, d);
  std::vector<at::Tensor> maps;
  for (int64_t g = 0; g < kv_heads; ++g) {
    // W_Q^T of every query head, one below the other.
    const at::Tensor q = queries.narrow(0, g * group * d, group * d).reshape({group, d, -1}).transpose(1, 2).reshape({-1, d}).to(at::kDouble);
    const at::Tensor r1 = triangle(q), r2 = triangle(keys.narrow(0, g * d, d).t().to(at::kDouble));
    const auto [u, sizes, vt] = at::linalg_svd(at::matmul(r1, r2.t()), false);
    const bool query = side == TeacherSource::kQuery;
    const at::Tensor vectors = query ? u.t() : vt, inverse = at::linalg_pinv(query ? r1 : r2, 1e-10).t();
    const at::Tensor map = at::matmul(sizes.sqrt().unsqueeze(1) * vectors, inverse).narrow(0, 0, rank);
    const at::Tensor padded = at::constant_pad_nd(map, {0, 0, 0, f - rank}).to(at::kFloat);
    for (int64_t i = 0; i < (query ? group : 1); ++i) maps.push_back(padded);
  }
  return at::stack(maps);
}

double measured(const InitBlock& block, double head_rms) {
  switch (block.measure) {
    case InitBlock::Measure::kNone: return block.value;
    case InitBlock::Measure::kHeadRms: return block.value * head_rms;
    case InitBlock::Measure::kGateOfHeadRms: return inverse_silu(block.value * head_rms);
  }
  return block.value;
}

// The block's values, shaped as `rows` rows of the tensor.
Result<at::Tensor> block_values(const Origin& from, const InitBlock& block, const PartWeights& part, const TensorSpec& spec, int64_t rows) {
  std::vector<int64_t> shape = spec.shape;
  shape[0] = rows;
  switch (block.kind) {
    case InitBlock::Kind::kTeacher: {
      RETORT_TRY(auto values, teacher_block(from, block, part, rows, spec.shape));
      return values.reshape(shape);
    }
    case InitBlock::Kind::kConstant: return at::full(shape, measured(block, 1), at::kFloat);
    case InitBlock::Kind::kNormal: {
      auto generator = at::detail::createCPUGenerator(name_seed(from.seed, part.prefix + spec.name));
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
    case InitBlock::Kind::kLowRank: return low_rank(from, block.source, part, shape);
    case InitBlock::Kind::kLogCount: return at::linspace(1, block.last, shape.back()).log().expand(shape).contiguous();
  }
  return internal_error("unknown start of ", spec.name);
}

Status check_finite(const PartWeights& part) {
  for (size_t i = 0; i < part.table.size(); ++i) {
    if (!part.values[i].defined() || at::isfinite(part.values[i]).all().item<bool>()) continue;
    return invalid("mixer '", part.part.mixer, "': the start of ", part.prefix, part.table[i].name,
                   " is not finite; another value of the mixer's fields may help, if the teacher's weights are finite");
  }
  return {};
}

}  // namespace

Status fill_start(const WeightStore& teacher, const ModelConfig& config, int layer, uint64_t seed, PartWeights& part, StudentInit init) {
  const Origin from{teacher, config, layer, seed, init};
  for (size_t i = 0; i < part.table.size(); ++i) {
    const TensorSpec& spec = part.table[i];
    if (!spec.present()) continue;
    std::vector<at::Tensor> blocks;
    int64_t filled = 0;
    for (const InitBlock& block : spec.init) {
      const int64_t rows = block.rows > 0 ? block.rows : spec.shape[0] - filled;
      RETORT_TRY(auto values, block_values(from, block, part, spec, rows));
      blocks.push_back(values);
      filled += rows;
    }
    if (filled != spec.shape[0]) return internal_error("start of ", part.prefix, spec.name, ": ", filled, " of ", spec.shape[0], " rows");
    part.values[i] = at::cat(blocks).to(at::kFloat).contiguous();
  }
  return check_finite(part);
}

Status fill_from(const PartWeights& source, PartWeights& part) {
  std::vector<int> kept;  // positions of this part's heads among the source's
  for (int g : part.part.kv_heads) {
    const auto found = std::find(source.part.kv_heads.begin(), source.part.kv_heads.end(), g);
    if (found == source.part.kv_heads.end()) return internal_error(part.prefix, ": kv head ", g, " is not in the source");
    kept.push_back(int(found - source.part.kv_heads.begin()));
  }
  const bool whole = kept.size() == source.part.kv_heads.size();
  for (size_t i = 0; i < part.table.size(); ++i) {
    if (!source.values[i].defined()) continue;
    const TensorSpec& spec = source.table[i];
    const at::Tensor values = source.values[i].detach().to(at::kFloat).contiguous();
    if (whole || spec.heads == HeadAxis::kShared) {
      part.values[i] = values.clone();
      continue;
    }
    const auto cut = cut_heads(spec, source.shape.kv_heads, source.shape.group(), {values.data_ptr<float>(), size_t(values.numel())}, kept);
    part.values[i] = torch::tensor(cut).reshape(part.table[i].shape);
  }
  return {};
}

namespace {

// Keys and moments of queries of one layer, all heads. keys[g] is [T, d], moments[g] is [group, d, d].
struct LayerStatistics {
  std::vector<at::Tensor> keys, moments;
};

LayerStatistics measure_keys(const ModelConfig& c, const PartWeights& attention, Numeric numeric, const at::Tensor& x) {
  const at::NoGradGuard no_grad;
  Rows none;
  none.total = x.size(0);
  TorchOps ops(none, attention.shape, numeric);
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

// RMS of every query head's output. inputs and rows are of one sequence each.
std::vector<double> measure_heads(const TorchModel& teacher, int layer, const std::vector<at::Tensor>& inputs, const std::vector<Rows>& rows) {
  const int64_t heads = teacher.config.heads;
  at::Tensor squares = at::zeros({heads}, at::kDouble);
  for (size_t r = 0; r < inputs.size(); ++r) {
    const at::Tensor out = run_part(teacher.layers[layer][0], inputs[r], rows[r], teacher.numeric, /*before_output=*/true);
    squares += out.reshape({out.size(0), heads, -1}).to(at::kDouble).square().mean({0, 2}) / double(inputs.size());
  }
  const at::Tensor rms = squares.sqrt();
  return {rms.data_ptr<double>(), rms.data_ptr<double>() + heads};
}

// Volumes are few numbers: rows of text that they are settled on.
constexpr int kVolumeRows = 4;

bool wants_head_rms(const PartWeights& part) {
  return std::any_of(part.table.begin(), part.table.end(), [](const TensorSpec& spec) {
    return spec.present() && std::any_of(spec.init.begin(), spec.init.end(), [](const InitBlock& b) { return b.measure != InitBlock::Measure::kNone; });
  });
}

// A tensor by query head takes every head's own RMS; one that heads share, the mean.
void set_head_rms(const std::vector<double>& layer, PartWeights& part) {
  std::vector<double> own;
  for (int h = 0; h < part.shape.heads; ++h) own.push_back(layer[size_t(part.shape.layer_head(h))]);
  const double mean = std::accumulate(own.begin(), own.end(), 0.0) / double(own.size());
  for (size_t i = 0; i < part.table.size(); ++i) {
    const TensorSpec& spec = part.table[i];
    if (!spec.present() || spec.init.size() != 1 || spec.init[0].measure == InitBlock::Measure::kNone) continue;
    const InitBlock& block = spec.init[0];
    if (spec.heads != HeadAxis::kQueryRows) {
      part.values[i].fill_(measured(block, mean));
      continue;
    }
    at::Tensor by_head = part.values[i].view({part.shape.heads, -1});
    for (int h = 0; h < part.shape.heads; ++h) by_head.select(0, h).fill_(measured(block, own[size_t(h)]));
  }
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
    if constexpr (requires { &Mixer::start_from_data; }) {
      learns = true;
      if (!layer) return;
      const auto config = parse_config<Mixer>(part.part.config);
      PartValues values(part);
      for (size_t h = 0; h < part.part.kv_heads.size(); ++h) {
        const int g = part.part.kv_heads[h];
        const HeadStatistics head{layer->keys[g].size(0), c.head_dim, c.group(), layer->keys[g].template data_ptr<float>(),
                                  layer->moments[g].template data_ptr<double>(), c.rope, name_seed(seed, cat(part.prefix, g))};
        Mixer::start_from_data(*config, part.shape, head, int(h), values);
      }
    }
  });
  return learns;
}

}  // namespace

Status start_from_data(const TorchModel& teacher, const std::vector<std::vector<PartWeights>>& copied, const Batch& batch, uint64_t seed,
                       ThreadPool& pool, std::vector<std::vector<PartWeights>>& parts) {
  const int layers = teacher.config.layers;
  std::vector<char> keys(layers, false), heads(layers, false);
  for (int l = 0; l < layers; ++l) {
    for (PartWeights& part : parts[l]) {
      keys[l] |= start_part(teacher.config, nullptr, seed, part);
      heads[l] |= wants_head_rms(part);
    }
  }
  const auto any = [](const std::vector<char>& wanted) { return std::any_of(wanted.begin(), wanted.end(), [](char w) { return w; }); };
  const int volume_rows = std::min(batch.rows, kVolumeRows), read = any(keys) || any(heads) ? batch.rows : volume_rows;
  std::vector<std::vector<at::Tensor>> inputs(layers, std::vector<at::Tensor>(read));
  std::vector<Rows> rows(read);
  RETORT_RETURN_IF_ERROR(run_start_tasks(pool, read, [&](int64_t r) {
    const at::NoGradGuard no_grad;
    rows[r] = batch_rows(teacher, batch, int(r), 1);
    run_model(teacher, {batch.tokens.data() + r * batch.seq, size_t(batch.seq)}, rows[r],
              [&](const LayerView& view) { inputs[view.layer][r] = view.input; });
  }));
  RETORT_RETURN_IF_ERROR(run_start_tasks(pool, layers, [&](int64_t l) {
    const at::NoGradGuard no_grad;
    if (heads[l]) {
      const std::vector<double> rms = measure_heads(teacher, int(l), inputs[l], rows);
      for (PartWeights& part : parts[l]) set_head_rms(rms, part);
    }
    if (keys[l]) {
      const LayerStatistics statistics = measure_keys(teacher.config, copied[l][0], teacher.numeric, at::cat(inputs[l]));
      for (PartWeights& part : parts[l]) start_part(teacher.config, &statistics, seed, part);
    }
    const PartWeights& attention = teacher.layers[l][0];
    for (PartWeights& part : parts[l]) {
      settle_volume(attention, std::span(inputs[l]).first(volume_rows), std::span(rows).first(volume_rows), teacher.numeric, part);
    }
  }));
  for (const auto& layer : parts) {
    for (const PartWeights& part : layer) RETORT_RETURN_IF_ERROR(check_finite(part));
  }
  return {};
}

}  // namespace retort::train
