#include "train/torch_model.h"

#include "mixers/list.h"

namespace retort::train {
namespace {

Result<at::Tensor> read_tensor(const WeightStore& store, const std::string& name, at::ScalarType type) {
  RETORT_TRY(auto view, store.tensor(name));
  if (const Status finite = check_finite(view); !finite.ok()) return invalid(store.path(), ": ", finite.error().message);
  RETORT_TRY(auto values, read_f32(view));
  return torch::from_blob(values.data(), view.shape, at::kFloat).to(type, /*non_blocking=*/false, /*copy=*/true);
}

// gate_proj over up_proj.
Result<at::Tensor> read_gate_up(const WeightStore& store, const std::string& base, at::ScalarType type) {
  RETORT_TRY(auto gate, read_tensor(store, base + "mlp.gate_proj.weight", type));
  RETORT_TRY(auto up, read_tensor(store, base + "mlp.up_proj.weight", type));
  return at::cat({gate, up});
}

Status read_body(const ModelConfig& c, const WeightStore& store, at::ScalarType matrix, at::ScalarType vector, Body& body) {
  RETORT_TRY(body.embedding, read_tensor(store, "model.embed_tokens.weight", matrix));
  RETORT_TRY(body.final_norm, read_tensor(store, "model.norm.weight", vector));
  body.head = body.embedding;
  if (!c.tie_embeddings) {
    RETORT_TRY(body.head, read_tensor(store, "lm_head.weight", matrix));
  }
  for (int l = 0; l < c.layers; ++l) {
    const std::string base = cat("model.layers.", l, ".");
    Body::Layer layer;
    RETORT_TRY(layer.input_norm, read_tensor(store, base + "input_layernorm.weight", vector));
    RETORT_TRY(layer.post_norm, read_tensor(store, base + "post_attention_layernorm.weight", vector));
    RETORT_TRY(layer.gate_up, read_gate_up(store, base, matrix));
    RETORT_TRY(layer.down, read_tensor(store, base + "mlp.down_proj.weight", matrix));
    body.layers.push_back(std::move(layer));
  }
  return {};
}

}  // namespace

std::vector<std::vector<PartWeights>> empty_parts(const ModelConfig& config) {
  std::vector<std::vector<PartWeights>> layers(config.layers);
  for (int l = 0; l < config.layers; ++l) {
    for (size_t p = 0; p < config.plan[l].parts.size(); ++p) {
      const Part& part = config.plan[l].parts[p];
      PartWeights weights{part, part_shape(config, part), part_prefix(config, l, int(p)), part_tensors(config, part), {}};
      weights.values.resize(weights.table.size());
      layers[l].push_back(std::move(weights));
    }
  }
  return layers;
}

Result<TorchModel> load_model(const ModelFiles& files, Numeric numeric, at::ScalarType type) {
  TorchModel model;
  model.config = files.config;
  model.numeric = numeric;
  model.wide_ = type;
  const bool fast = numeric == Numeric::kFast;
  const at::ScalarType matrix = fast ? at::kBFloat16 : type;
  RETORT_RETURN_IF_ERROR(read_body(model.config, *files.weights, matrix, type, model.body));
  model.layers = empty_parts(model.config);
  for (auto& parts : model.layers) {
    for (PartWeights& part : parts) {
      for (size_t i = 0; i < part.table.size(); ++i) {
        if (!part.table[i].present()) continue;
        const bool low = fast && part.part.mixer == "attention" && part.table[i].floor == Precision::kQuantised;
        RETORT_TRY(part.values[i], read_tensor(*files.weights, part.prefix + part.table[i].name, low ? matrix : type));
      }
    }
  }
  return model;
}

at::Tensor run_part(const PartWeights& part, const at::Tensor& x, const Rows& rows, Numeric numeric, bool before_output) {
  std::vector<TorchOps::Weight> weights;
  for (const at::Tensor& value : part.values) weights.push_back({value});
  TorchOps ops(rows, part.shape, numeric);
  at::Tensor out;
  visit_mixer(part.part.mixer, [&](auto tag) {
    using Mixer = typename decltype(tag)::type;
    const auto fields = parse_config<Mixer>(part.part.config);
    RETORT_CHECK(fields.ok(), fields.error().message);
    auto mixed = part_mix<Mixer, TorchOps>(ops, *fields, part.shape, weights.data(), TorchOps::Tensor(x));
    out = before_output ? ops.flat(mixed) : ops.linear(mixed, weights[Mixer::kOutput]).t;
  });
  return out;
}

at::Tensor run_mixers(const TorchModel& model, int layer, const at::Tensor& x, const Rows& rows) {
  at::Tensor sum;
  for (const PartWeights& part : model.layers[layer]) {
    const at::Tensor share = run_part(part, x, rows, model.numeric);
    sum = sum.defined() ? sum + share : share;
  }
  return sum;
}

at::Tensor run_mlp(const TorchModel& model, int layer, const at::Tensor& residual) {
  const Body::Layer& w = model.body.layers[layer];
  const at::Tensor x = rms_norm(residual, w.post_norm, model.config.norm_eps, model.numeric);
  const at::Tensor hidden = swiglu(linear(x, {}, w.gate_up, {}, model.numeric, true), model.numeric);
  return residual + linear(hidden, {}, w.down, {}, model.numeric, true);
}

at::Tensor embed(const TorchModel& model, std::span<const int32_t> tokens) {
  const at::Tensor ids = torch::from_blob(const_cast<int32_t*>(tokens.data()), {int64_t(tokens.size())}, at::kInt);
  return at::embedding(model.body.embedding, ids).to(model.wide());
}

at::Tensor run_layer(const TorchModel& model, int layer, const at::Tensor& residual, const Rows& rows, const LayerHook& hook) {
  const at::Tensor x = rms_norm(residual, model.body.layers[layer].input_norm, model.config.norm_eps, model.numeric);
  const at::Tensor y = run_mixers(model, layer, x, rows);
  if (hook) hook({layer, residual, x, y});
  return run_mlp(model, layer, residual + y);
}

at::Tensor final_norm(const TorchModel& model, const at::Tensor& residual) {
  return rms_norm(residual, model.body.final_norm, model.config.norm_eps, model.numeric);
}

at::Tensor run_model(const TorchModel& model, std::span<const int32_t> tokens, const Rows& rows, const LayerHook& hook) {
  at::Tensor h = embed(model, tokens);
  for (int l = 0; l < model.config.layers; ++l) h = run_layer(model, l, h, rows, hook);
  return final_norm(model, h);
}

Rows batch_rows(const TorchModel& model, const Batch& batch, int first, int count) {
  const int64_t begin = int64_t(first) * batch.seq, end = begin + int64_t(count) * batch.seq;
  std::vector<Sequence> sequences;
  for (size_t i = 0; i < batch.starts.size(); ++i) {
    const int64_t from = batch.starts[i];
    if (from < begin || from >= end) continue;
    const int64_t to = i + 1 < batch.starts.size() ? batch.starts[i + 1] : int64_t(batch.tokens.size());
    sequences.push_back({from - begin, to - from});
  }
  return Rows::make(sequences, model.config.rope, model.config.head_dim, model.wide());
}

std::vector<float> token_losses(const TorchModel& model, std::span<const int32_t> tokens, const Rows& rows) {
  const at::NoGradGuard no_grad;
  const at::Tensor hidden = run_model(model, tokens, rows);
  std::vector<int64_t> positions, targets;
  for (const Sequence& s : rows.sequences) {
    for (int64_t t = s.begin; t + 1 < s.begin + s.size; ++t) {
      positions.push_back(t);
      targets.push_back(tokens[t + 1]);
    }
  }
  std::vector<float> losses(tokens.size(), -1.0f);
  const at::Tensor where = torch::tensor(positions, at::kLong), target = torch::tensor(targets, at::kLong);
  constexpr int64_t kChunk = 128;  // positions whose logits exist at the same time
  for (int64_t i = 0; i < where.size(0); i += kChunk) {
    const int64_t n = std::min(kChunk, where.size(0) - i);
    const at::Tensor logits = product(hidden.index_select(0, where.narrow(0, i, n)), model.body.head.to(hidden.scalar_type()).t()).to(model.wide());
    const at::Tensor picked = logits.gather(1, target.narrow(0, i, n).unsqueeze(1)).squeeze(1);
    const at::Tensor loss = (logits.logsumexp(1) - picked).to(at::kFloat).contiguous();
    for (int64_t j = 0; j < n; ++j) losses[positions[i + j] + 1] = loss.data_ptr<float>()[j];
  }
  return losses;
}

}  // namespace retort::train
