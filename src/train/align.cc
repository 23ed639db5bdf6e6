// Layer-wise stages: every student layer is fed the teacher's input of that layer, normed by the student's own norm where it has one, and
// must give the teacher's output. Layers are independent, so each is one task: forward, backward, graph freed.
#include <cmath>
#include <condition_variable>
#include <exception>
#include <mutex>

#include "train/stages.h"
#include "train/tasks.h"

namespace retort::train {
namespace {

// Loss and its gradient with respect to `y`. [T, D]
struct Compared {
  double loss = 0;
  at::Tensor gradient;
};

Compared compare(LossForm form, const at::Tensor& y, const at::Tensor& target) {
  const at::Tensor difference = y - target;
  const double tokens = double(y.size(0)), width = double(y.size(1));
  switch (form) {
    case LossForm::kMse:
      return {difference.square().mean().item<double>(), difference * (2.0 / (tokens * width))};
    case LossForm::kL2: {  // mean norm over D, divided by sqrt(D)
      const at::Tensor norm = difference.norm(2, 1, true);
      return {norm.mean().item<double>() / std::sqrt(width), difference / norm.clamp_min(1e-20) / (tokens * std::sqrt(width))};
    }
    default: {
      const double scale = 1.0 / std::max(target.square().sum().item<double>(), 1e-30);
      return {difference.square().sum().item<double>() * scale, difference * (2.0 * scale)};
    }
  }
}

// Which layers the teacher has left behind. Thread-safe.
class Progressed {
 public:
  Progressed(int layers, int rows) : missing_(layers, rows) {}

  void row_done(int layer) {
    const std::lock_guard lock(mutex_);
    if (--missing_[layer] == 0) changed_.notify_all();
  }
  // True once every row has passed the layer; false when a row never will.
  bool wait(int layer) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return failed_ || missing_[layer] == 0; });
    return !failed_;
  }

  // Releases those who wait when the teacher's pass throws.
  class FailureGuard {
   public:
    explicit FailureGuard(Progressed& progressed) : progressed_(progressed), before_(std::uncaught_exceptions()) {}
    ~FailureGuard() {
      if (std::uncaught_exceptions() == before_) return;
      const std::lock_guard lock(progressed_.mutex_);
      progressed_.failed_ = true;
      progressed_.changed_.notify_all();
    }

   private:
    Progressed& progressed_;
    int before_;
  };

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int> missing_;  // rows still to come, by layer
  bool failed_ = false;
};

class AlignStage : public StageRunner {
 public:
  AlignStage(const StageSpec& stage, StageContext context) : stage_(stage), context_(std::move(context)), by_layer_(context_.student.config.layers) {
    for (Leaf* leaf : context_.leaves) {
      if (leaf->layer >= 0) by_layer_[leaf->layer].push_back(leaf);
    }
  }

  std::vector<Parameter> parameters() override { return stage_parameters(stage_, context_.leaves, true); }

  Result<StepResult> step(const Batch& batch, const StepContext& step) override {
    const double begin = processor_seconds();
    take_gemm_seconds();
    const Rows rows = batch_rows(context_.student, batch, 0, batch.rows);
    const int layers = context_.student.config.layers;
    std::vector<std::vector<double>> losses(layers);
    // Teacher rows first, then layers: tasks are claimed in this order, so what a layer waits for has always been begun, and threads
    // without a row train the first layers while the teacher computes the last.
    Progressed passed(layers, batch.rows);
    prepare_records(batch.rows);
    const Status status = run_tasks(context_.pool, batch.rows + layers, [&](int64_t task) {
      if (task < batch.rows) {
        watch_teacher(batch, int(task), passed);
      } else if (const int l = int(task - batch.rows); passed.wait(l) && !by_layer_[l].empty()) {
        losses[l] = layer_step(l, rows, step.scale);
      }
    });
    records_.clear();
    RETORT_RETURN_IF_ERROR(status);
    StepResult result = collect(losses);
    result.gemm_seconds = take_gemm_seconds();
    result.compute_seconds = processor_seconds() - begin;
    return result;
  }

 private:
  // What the teacher's layer met, one entry per row of the batch; nothing where the layer's step needs nothing.
  struct LayerRecord {
    std::vector<at::Tensor> residual, input, output;
  };

  const at::Tensor& input_norm(int l) const { return context_.student.body.layers[l].input_norm; }
  // Whether the student's norm before the mixer is not the teacher's: some stage of the recipe trains it.
  bool own_norm(int l) const { return !input_norm(l).is_same(context_.teacher.body.layers[l].input_norm); }

  void prepare_records(int rows) {
    const bool block = stage_.find(LossKind::kHidden) != nullptr;
    records_.assign(context_.student.config.layers, {});
    for (size_t l = 0; l < records_.size(); ++l) {
      records_[l].residual.resize(block || own_norm(int(l)) ? rows : 0);
      records_[l].input.resize(own_norm(int(l)) ? 0 : rows);
      records_[l].output.resize(rows);
    }
  }

  void watch_teacher(const Batch& batch, int r, Progressed& passed) {
    const at::NoGradGuard no_grad;
    const Progressed::FailureGuard guard(passed);
    const Rows rows = batch_rows(context_.teacher, batch, r, 1);
    run_model(context_.teacher, {batch.tokens.data() + int64_t(r) * batch.seq, size_t(batch.seq)}, rows, [&](const LayerView& view) {
      LayerRecord& record = records_[view.layer];
      if (!record.residual.empty()) record.residual[r] = view.residual;
      if (!record.input.empty()) record.input[r] = view.input;
      record.output[r] = view.output;
      passed.row_done(view.layer);
    });
  }

  // One value per loss of the stage, not weighted.
  std::vector<double> layer_step(int l, const Rows& rows, double scale) {
    const LayerRecord record = std::move(records_[l]);
    const at::Tensor target = at::cat(record.output);
    const at::Tensor residual = record.residual.empty() ? at::Tensor() : at::cat(record.residual);
    const at::Tensor x = own_norm(l) ? rms_norm(residual, input_norm(l), context_.student.config.norm_eps, context_.student.numeric)
                                     : at::cat(record.input);
    const at::Tensor y = run_mixers(context_.student, l, x, rows);
    std::vector<double> losses;
    at::Tensor gradient = at::zeros_like(y), block_out, block_gradient;
    for (const LossSpec& loss : stage_.losses) {
      Compared compared;
      if (loss.kind == LossKind::kHidden) {
        compared = block_loss(l, loss, residual, y, target, block_out);
        block_gradient = compared.gradient * (loss.weight * scale);
      } else {
        compared = compare(loss.form, y.detach(), target);
        gradient.add_(compared.gradient, loss.weight * scale);
      }
      losses.push_back(compared.loss);
    }
    std::vector<at::Tensor> values;
    for (Leaf* leaf : by_layer_[l]) values.push_back(leaf->value);
    torch::autograd::variable_list outputs, seeds;
    if (y.requires_grad()) outputs.push_back(y), seeds.push_back(gradient);
    if (block_out.defined()) outputs.push_back(block_out), seeds.push_back(block_gradient);
    const auto gradients = torch::autograd::grad(outputs, values, seeds, std::nullopt, false, true);
    for (size_t i = 0; i < values.size(); ++i) {
      if (gradients[i].defined()) by_layer_[l][i]->gradient.add_(gradients[i]);
    }
    return losses;
  }

  Compared block_loss(int l, const LossSpec& loss, const at::Tensor& residual, const at::Tensor& y, const at::Tensor& target,
                      at::Tensor& block_out) {
    at::Tensor wanted;
    {
      const at::NoGradGuard no_grad;
      wanted = run_mlp(context_.teacher, l, residual + target);
    }
    block_out = run_mlp(context_.student, l, residual + y);
    if (loss.form != LossForm::kRelative) return compare(loss.form, block_out.detach(), wanted);
    // Relative to what the block adds, not to the residual stream that it passes on.
    Compared compared = compare(LossForm::kRelative, block_out.detach() - residual, wanted - residual);
    return compared;
  }

  StepResult collect(const std::vector<std::vector<double>>& losses) const {
    StepResult result;
    for (size_t i = 0; i < stage_.losses.size(); ++i) {
      double sum = 0;
      int count = 0;
      for (const auto& layer : losses) {
        if (layer.empty()) continue;
        sum += layer[i];
        ++count;
      }
      const double mean = count ? sum / count : 0;
      result.parts.push_back({loss_name(stage_.losses[i].kind), mean});
      result.loss += stage_.losses[i].weight * mean;
    }
    for (size_t l = 0; l < losses.size(); ++l) {
      if (!losses[l].empty()) result.parts.push_back({cat("layer", l), losses[l][0]});
    }
    return result;
  }

  StageSpec stage_;
  StageContext context_;
  std::vector<std::vector<Leaf*>> by_layer_;
  std::vector<LayerRecord> records_;
};

}  // namespace

std::vector<Parameter> stage_parameters(const StageSpec& stage, const std::vector<Leaf*>& leaves, bool layer_wise) {
  std::vector<Parameter> out;
  for (Leaf* leaf : leaves) {
    if (!leaf->gradient.defined()) leaf->gradient = at::zeros_like(leaf->value);
    for (const Leaf::Slice& s : leaf->slices) {
      if (!trains(stage, s.name, s.group) && !leaf->mixer) continue;
      const size_t count = size_t(s.count);
      out.push_back({s.name, s.group, s.decays, layer_wise ? std::max(leaf->layer, 0) : 0, {leaf->value.data_ptr<float>() + s.offset, count},
                     {leaf->gradient.data_ptr<float>() + s.offset, count}});
    }
  }
  return out;
}

std::unique_ptr<StageRunner> make_align_stage(const StageSpec& stage, StageContext context) {
  return std::make_unique<AlignStage>(stage, std::move(context));
}

}  // namespace retort::train
