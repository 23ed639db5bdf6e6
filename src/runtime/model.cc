#include "runtime/model.h"

#include <unordered_map>

#include "base/hash.h"

namespace retort {
namespace {

constexpr int64_t kHeadRows = 64;  // rows of logits held at a time: 12 MB of a vocabulary of 49,152

// A head below 8 bits costs more quality than bandwidth.
WeightFormat head_format(WeightFormat format) {
  return format == WeightFormat::kQ4_0 || format == WeightFormat::kQ4_1 ? WeightFormat::kQ8_0 : format;
}

}  // namespace

struct Model::Loader {
  const ModelFiles& files;
  WeightFormat format;
  ThreadPool& pool;
  Model& model;
  std::unordered_map<std::string, Precision> floors{};
  uint64_t hash = kFnvStart;

  // A sample of every tensor: enough to tell two trainings of one model apart without reading everything.
  void hash_tensor(const TensorView& view) {
    const int64_t bytes = view.bytes(), step = std::max<int64_t>(1, bytes / 64);
    for (int64_t i = 0; i < bytes; i += step) hash = fnv1a_unit(uint64_t(view.data[i]), hash);
  }

  WeightRef keep(ModelWeight weight) {
    model.weight_bytes_ += weight.bytes();
    model.weights_.push_back(std::move(weight));
    return WeightRef(&model.weights_.back());
  }

  Result<TensorView> view(const std::string& name) {
    RETORT_TRY(TensorView found, files.weights->tensor(name));
    if (const Status finite = check_finite(found); !finite.ok()) return invalid(files.weights->path(), ": ", finite.error().message);
    hash_tensor(found);
    return found;
  }

  Result<WeightRef> load(const std::string& name, Precision floor, WeightFormat as) {
    RETORT_TRY(const TensorView found, view(name));
    RETORT_TRY(ModelWeight weight, load_weight(found, floor, as, pool));
    return keep(std::move(weight));
  }

  Status load_part(int layer, int index, LoadedLayer& to) {
    const Part& part = files.config.plan[layer].parts[index];
    LoadedPart loaded;
    loaded.shape = part_shape(model.config_, part);
    loaded.first_slot = model.layout_->first_slot(int(model.layers_.size()) - 1, index);
    const std::string prefix = part_prefix(files.config, layer, index);
    for (const TensorSpec& spec : part_tensors(model.config_, part)) {
      loaded.weights.emplace_back();
      if (!spec.present()) continue;
      RETORT_TRY(loaded.weights.back(), load(prefix + spec.name, spec.floor, format));
    }
    visit_mixer(part.mixer, [&](auto tag) {
      using Mixer = typename decltype(tag)::type;
      loaded.output = loaded.weights[Mixer::kOutput];
      loaded.mix = [config = *parse_config<Mixer>(part.config)](RuntimeOps& ops, const LoadedPart& p,
                                                               const RuntimeOps::Tensor& x) {
        return part_mix<Mixer>(ops, config, p.shape, p.weights.data(), x);
      };
    });
    to.parts.push_back(std::move(loaded));
    return {};
  }

  // Which weights are applied to the layer's input: asked of the equations themselves, in a pass without rows.
  void find_fused(LoadedLayer& layer) {
    Arena arena;
    OpsScratch scratch;
    RuntimeOps ops(pool, arena, scratch, {}, 0);
    const auto input = ops.allocate(model.config_.width);
    ops.set_rope(model.frequencies_);
    ops.begin_layer(input, {});
    ops.trace_input_weights(&layer.fused);
    for (const LoadedPart& part : layer.parts) {
      ops.begin_part(part.shape, part.first_slot);
      part.mix(ops, part, input);
    }
  }

  Status load_layer(int l) {
    const std::string base = cat("model.layers.", l, ".");
    LoadedLayer& layer = model.layers_.emplace_back();
    RETORT_TRY(layer.input_norm, load(base + "input_layernorm.weight", Precision::kF32, format));
    RETORT_TRY(layer.mlp_norm, load(base + "post_attention_layernorm.weight", Precision::kF32, format));
    for (size_t p = 0; p < files.config.plan[l].parts.size(); ++p) RETORT_RETURN_IF_ERROR(load_part(l, int(p), layer));
    find_fused(layer);
    RETORT_TRY(const TensorView gate, view(base + "mlp.gate_proj.weight"));
    RETORT_TRY(const TensorView up, view(base + "mlp.up_proj.weight"));
    RETORT_TRY(ModelWeight gate_up, load_gate_up(gate, up, format, pool));
    layer.gate_up = keep(std::move(gate_up));
    RETORT_TRY(layer.down, load(base + "mlp.down_proj.weight", Precision::kQuantised, format));
    return {};
  }

  Status load_all() {
    for (int l = 0; l < model.config_.layers; ++l) RETORT_RETURN_IF_ERROR(load_layer(l));
    RETORT_TRY(model.embedding_, view("model.embed_tokens.weight"));
    RETORT_TRY(model.final_norm_, load("model.norm.weight", Precision::kF32, format));
    const char* head = model.config_.tie_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
    RETORT_TRY(model.head_, load(head, Precision::kQuantised, head_format(format)));
    model.identity_ = cat(fingerprint(model.config_), "-", hex(hash), model.layout_->cache_type() == CacheType::kF32 ? "-f32" : "-bf16");
    return {};
  }
};

Result<std::shared_ptr<const Model>> Model::load(const ModelFiles& files, WeightFormat format, ThreadPool& pool) {
  std::shared_ptr<Model> model(new Model());
  model->config_ = files.config;
  RETORT_RETURN_IF_ERROR(validate_plan(model->config_));
  model->store_ = files.weights;
  model->frequencies_ = model->config_.rope.frequencies(model->config_.head_dim);
  model->layout_ = std::make_shared<const StateLayout>(model->config_, format == WeightFormat::kF32 ? CacheType::kF32 : CacheType::kBf16);
  Loader loader{files, format, pool, *model};
  RETORT_RETURN_IF_ERROR(loader.load_all());
  return std::shared_ptr<const Model>(std::move(model));
}

Result<std::shared_ptr<const Model>> Model::load_layer(const ModelFiles& files, int layer, WeightFormat format, ThreadPool& pool) {
  std::shared_ptr<Model> model(new Model());
  model->config_ = files.config;
  model->config_.layers = 1;
  model->config_.plan = {files.config.plan[size_t(layer)]};
  model->config_.vocab_size = 0;  // no token is in it
  model->store_ = files.weights;
  model->frequencies_ = model->config_.rope.frequencies(model->config_.head_dim);
  model->layout_ = std::make_shared<const StateLayout>(model->config_, format == WeightFormat::kF32 ? CacheType::kF32 : CacheType::kBf16);
  Loader loader{files, format, pool, *model};
  RETORT_RETURN_IF_ERROR(loader.load_layer(layer));
  return std::shared_ptr<const Model>(std::move(model));
}

void Model::embed(int token, float* out) const {
  const int64_t bytes = row_bytes(embedding_.type, config_.width);
  dequantise_row(embedding_.type, embedding_.data + token * bytes, out, config_.width);
}

Status Engine::forward(std::span<const BatchItem> items, const LogitsSink& sink) {
  const ModelConfig& config = model_->config_;
  segments_.clear();
  int64_t rows = 0;
  for (const BatchItem& item : items) {
    for (int token : item.tokens) {
      if (token < 0 || token >= config.vocab_size) {
        return invalid("token ", token, " is outside the vocabulary of ", config.vocab_size);
      }
    }
    segments_.push_back({item.sequence, rows, int64_t(item.tokens.size()), item.trial});
    rows += int64_t(item.tokens.size());
  }
  if (rows == 0) return {};
  arena_.release({});
  for (const RowSegment& s : segments_) {
    if (s.trial) s.trial->begin(s.count);
  }
  RuntimeOps ops(pool_, arena_, scratch_, segments_, rows);
  ops.use_bf16_activations(options_.bf16_activations);
  ops.watch_inputs(&input_watcher_);
  const auto hidden = ops.allocate(config.width);
  for (size_t i = 0; i < items.size(); ++i) {
    for (int64_t t = 0; t < segments_[i].count; ++t) model_->embed(items[i].tokens[t], hidden.row(segments_[i].first + t));
  }
  ops.set_rope(model_->frequencies_);
  run_layers(ops, hidden);
  for (const RowSegment& s : segments_) {
    if (!s.trial) s.sequence->set_position(s.sequence->position() + s.count);
  }
  run_head(items, hidden, sink);
  return {};
}

void Engine::forward_hidden(Sequence& sequence, float* hidden, int64_t rows) {
  segments_.assign(1, {&sequence, 0, rows, nullptr});
  arena_.release({});
  RuntimeOps ops(pool_, arena_, scratch_, segments_, rows);
  ops.use_bf16_activations(options_.bf16_activations);
  ops.watch_inputs(&input_watcher_);
  ops.set_rope(model_->frequencies_);
  const int width = model_->config_.width;
  run_layers(ops, {hidden, width, width});
  sequence.set_position(sequence.position() + rows);
}

void Engine::run_layers(RuntimeOps& ops, RuntimeOps::Tensor hidden) {
  const double eps = model_->config_.norm_eps;
  for (const Model::LoadedLayer& layer : model_->layers_) {
    if (watcher_) watcher_(int(&layer - model_->layers_.data()), hidden);
    const Arena::Mark mark = arena_.mark();
    const auto input = ops.rms_norm_heads(hidden, layer.input_norm, 1, eps);
    ops.begin_layer(input, layer.fused);
    for (const Model::LoadedPart& part : layer.parts) {
      ops.begin_part(part.shape, part.first_slot);
      ops.linear_add(part.mix(ops, part, input), part.output, hidden);
    }
    const auto gated = ops.linear_gated(ops.rms_norm_heads(hidden, layer.mlp_norm, 1, eps), layer.gate_up);
    ops.linear_add(gated, layer.down, hidden);
    arena_.release(mark);
  }
}

void Engine::run_head(std::span<const BatchItem> items, RuntimeOps::Tensor hidden, const LogitsSink& sink) {
  wanted_.clear();
  for (size_t i = 0; i < items.size(); ++i) {
    const RowSegment& s = segments_[i];
    if (items[i].logits == WantLogits::kNone || s.count == 0) continue;
    for (int64_t t = items[i].logits == WantLogits::kAll ? 0 : s.count - 1; t < s.count; ++t) wanted_.push_back(s.first + t);
  }
  for (int64_t first = 0; first < int64_t(wanted_.size()); first += kHeadRows) {
    const Arena::Mark mark = arena_.mark();
    const int64_t count = std::min<int64_t>(kHeadRows, int64_t(wanted_.size()) - first);
    RuntimeOps ops(pool_, arena_, scratch_, {}, count);
    ops.use_bf16_activations(options_.bf16_activations);
    const auto rows = ops.allocate(hidden.columns);
    for (int64_t r = 0; r < count; ++r) std::copy_n(hidden.row(wanted_[first + r]), hidden.columns, rows.row(r));
    const auto normed = ops.rms_norm_heads(rows, model_->final_norm_, 1, model_->config_.norm_eps);
    const auto logits = ops.linear(normed, model_->head_);
    sink({first, count, logits.data});
    arena_.release(mark);
  }
}

}  // namespace retort
