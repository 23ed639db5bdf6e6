#include "train/rank.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "train/start_tasks.h"
#include "train/student_plan.h"

namespace retort::train {
namespace {

// Each kv head group's share of the output of one part, [T, D], put in its place among those of the layer.
void add_shares(const PartWeights& part, const at::Tensor& x, const Rows& rows, Numeric numeric, std::vector<at::Tensor>& layer) {
  const at::Tensor mixed = run_part(part, x, rows, numeric, true).to(at::kFloat);
  at::Tensor output;
  for (size_t i = 0; i < part.table.size(); ++i) {
    if (part.table[i].heads == HeadAxis::kQueryColumns) output = part.values[i].to(at::kFloat);
  }
  const int64_t groups = part.shape.kv_heads, width = mixed.size(1) / groups;
  for (int64_t g = 0; g < groups; ++g) {
    const int head = part.part.kv_heads[size_t(g)];
    layer[size_t(head)] = at::mm(mixed.narrow(1, g * width, width), output.narrow(1, g * width, width).t());
  }
}

// [G, T, D] of a layer.
at::Tensor head_shares(const std::vector<PartWeights>& parts, int kv_heads, const at::Tensor& x, const Rows& rows, Numeric numeric) {
  std::vector<at::Tensor> layer(static_cast<size_t>(kv_heads));
  for (const PartWeights& part : parts) add_shares(part, x, rows, numeric, layer);
  return at::stack(layer);
}

bool is_attention(const LayerPlan& layer, int head) {
  return std::any_of(layer.parts.begin(), layer.parts.end(), [&](const Part& part) {
    return part.mixer == "attention" && std::find(part.kv_heads.begin(), part.kv_heads.end(), head) != part.kv_heads.end();
  });
}

}  // namespace

Result<RankedErrors> measure_errors(const TorchModel& teacher, const std::vector<std::vector<PartWeights>>& parts, const Batch& batch,
                                    ThreadPool& pool) {
  const int layers = teacher.config.layers;
  std::vector<std::vector<at::Tensor>> inputs(layers, std::vector<at::Tensor>(batch.rows));
  RETORT_RETURN_IF_ERROR(run_start_tasks(pool, batch.rows, [&](int64_t r) {
    const at::NoGradGuard no_grad;
    run_model(teacher, {batch.tokens.data() + r * batch.seq, size_t(batch.seq)}, batch_rows(teacher, batch, int(r), 1),
              [&](const LayerView& view) { inputs[view.layer][r] = view.input; });
  }));
  const Rows rows = batch_rows(teacher, batch, 0, batch.rows);
  RankedErrors errors{std::vector<double>(layers), std::vector<std::vector<double>>(layers)};
  RETORT_RETURN_IF_ERROR(run_start_tasks(pool, layers, [&](int64_t l) {
    const at::NoGradGuard no_grad;
    const at::Tensor x = at::cat(inputs[l]);
    const int kv_heads = teacher.config.kv_heads;
    const at::Tensor exact = head_shares(teacher.layers[l], kv_heads, x, rows, teacher.numeric);
    const at::Tensor difference = head_shares(parts[l], kv_heads, x, rows, teacher.numeric) - exact;
    const at::Tensor total = difference.sum(0);
    const double norm = std::max(exact.sum(0).square().sum().item<double>(), 1e-30);
    errors.layers[l] = total.square().sum().item<double>() / norm;
    for (int64_t g = 0; g < difference.size(0); ++g) {
      errors.heads[l].push_back(errors.layers[l] - (total - difference.select(0, g)).square().sum().item<double>() / norm);
    }
  }));
  return errors;
}

std::vector<std::pair<int, int>> choose_kept(const KeepSpec& keep, const ModelConfig& config, const RankedErrors& errors) {
  if (!is_measured(keep)) return listed_attention(keep, config.layers);
  std::vector<std::pair<int, int>> kept;
  std::vector<std::pair<double, std::pair<int, int>>> ranked;
  for (int l = 0; l < config.layers; ++l) {
    std::vector<int> replaced;
    for (int g = 0; g < config.kv_heads; ++g) {
      if (!is_attention(config.plan[l], g)) replaced.push_back(g);
    }
    if (keep.kind == KeepSpec::Kind::kLayers && !replaced.empty()) ranked.push_back({-errors.layers[l], {l, -1}});
    if (keep.kind == KeepSpec::Kind::kHeads) {
      for (int g : replaced) ranked.push_back({-errors.heads[l][g], {l, g}});
    }
  }
  std::sort(ranked.begin(), ranked.end());
  for (size_t i = 0; i < ranked.size() && i < size_t(keep.count); ++i) kept.push_back(ranked[i].second);
  return kept;
}

}  // namespace retort::train
