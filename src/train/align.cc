// Layer-wise stages: every student layer is fed the teacher's input of that layer, normed by the student's own norm where it has one, and
// must do what the teacher's does (layer_losses.h). Blocks of layers are independent, so each is one task: forward, backward, graph freed.
#include <algorithm>
#include <condition_variable>
#include <exception>
#include <limits>
#include <mutex>

#include "train/layer_losses.h"
#include "train/layer_pass.h"
#include "train/tasks.h"

namespace retort::train {
namespace {

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
    if (const LossSpec* hidden = stage_.find(LossKind::kHidden)) block_ = hidden->gap;
  }

  std::vector<Parameter> parameters() override { return stage_parameters(stage_, context_.leaves, true, &context_.reached); }

  Result<StepResult> step(const Batch& batch, const StepContext& step) override {
    const double begin = processor_seconds();
    take_gemm_seconds();
    std::vector<LayerValues> losses(context_.student.config.layers);
    const Status status = context_.group().alone() ? all_layers(batch, step.scale, losses) : layer_by_layer(batch, step.scale, losses);
    records_.clear();
    RETORT_RETURN_IF_ERROR(status);
    StepResult result = collect(losses);
    result.gemm_seconds = take_gemm_seconds();
    result.compute_seconds = processor_seconds() - begin;
    return result;
  }

 private:
  // One process has all weights at hand: layers train side by side.
  Status all_layers(const Batch& batch, double scale, std::vector<LayerValues>& losses) {
    const Rows rows = batch_rows(context_.student, batch, 0, batch.rows);
    const int layers = context_.student.config.layers;
    // Teacher rows first, then blocks of layers: tasks are claimed in this order, so what a block waits for has always been begun, and
    // threads without a row train the first layers while the teacher computes the last.
    Progressed passed(layers, batch.rows);
    prepare_records(batch.rows);
    return run_tasks(context_.pool, batch.rows + layers / block_, [&](int64_t task) {
      if (task < batch.rows) return watch_teacher(batch, int(task), passed);
      const int first = int(task - batch.rows) * block_;
      if (!passed.wait(first + block_ - 1) || !any_trains(first)) return;
      auto values = train_block(first, rows, batch.rows, scale);   // one process: nobody whom it could miss
      std::move(values->begin(), values->end(), losses.begin() + first);
    });
  }

  // Of several ranks each has its rows of the batch, and a block's weights only while it computes.
  Status layer_by_layer(const Batch& batch, double scale, std::vector<LayerValues>& losses) {
    const int own = dealt(context_.group(), batch.rows), base = own * context_.group().rank();
    const TorchModel &teacher = context_.teacher, &student = context_.student;
    const std::vector<const TorchModel*> both = {&teacher, &student};
    const Rows rows = batch_rows(student, batch, base, own);
    std::vector<Rows> of_row;
    for (int r = 0; r < own; ++r) of_row.push_back(batch_rows(teacher, batch, base + r, 1));
    std::vector<at::Tensor> states(own);
    prepare_records(own);
    {
      RETORT_TRY(const Shards::Hold hold, gather(context_, step_weights(teacher, 0)));
      for (int r = 0; r < own; ++r) states[r] = embed(teacher, {batch.tokens.data() + int64_t(base + r) * batch.seq, size_t(batch.seq)});
    }
    for (int first = 0; first < student.config.layers; first += block_) {
      std::vector<at::Tensor> weights;
      for (int l = first; l < first + block_; ++l) {
        const auto of_layer = step_weights(both, l + 1);
        weights.insert(weights.end(), of_layer.begin(), of_layer.end());
      }
      RETORT_TRY(const Shards::Hold hold, gather(context_, weights));
      RETORT_RETURN_IF_ERROR(run_tasks(context_.pool, own, [&](int64_t r) {
        const at::NoGradGuard no_grad;
        for (int l = first; l < first + block_; ++l) states[r] = run_layer(teacher, l, states[r], of_row[r], [&](const LayerView& view) { keep(view, int(r)); });
      }));
      if (!any_trains(first)) continue;
      Status done;
      RETORT_RETURN_IF_ERROR(run_tasks(context_.pool, 1, [&](int64_t) {
        auto values = train_block(first, rows, own, scale);
        if (values.ok()) std::move(values->begin(), values->end(), losses.begin() + first);
        else done = values.error();
      }));
      RETORT_RETURN_IF_ERROR(done);
    }
    return {};
  }

  // What the teacher's layer met, one entry per row of the batch; nothing where no loss needs it.
  struct RowRecords {
    std::vector<at::Tensor> residual, input, output;
  };

  bool any_trains(int first) const {
    return std::any_of(by_layer_.begin() + first, by_layer_.begin() + first + block_, [](const auto& leaves) { return !leaves.empty(); });
  }

  void prepare_records(int rows) {
    records_.assign(context_.student.config.layers, {});
    for (size_t l = 0; l < records_.size(); ++l) {
      const RecordNeeds needs = record_needs(stage_, context_.teacher, context_.student, int(l));
      records_[l].residual.resize(needs.residual ? rows : 0);
      records_[l].input.resize(needs.input ? rows : 0);
      records_[l].output.resize(needs.output ? rows : 0);
    }
  }

  void watch_teacher(const Batch& batch, int r, Progressed& passed) {
    const at::NoGradGuard no_grad;
    const Progressed::FailureGuard guard(passed);
    const Rows rows = batch_rows(context_.teacher, batch, r, 1);
    run_model(context_.teacher, {batch.tokens.data() + int64_t(r) * batch.seq, size_t(batch.seq)}, rows, [&](const LayerView& view) {
      keep(view, r);
      passed.row_done(view.layer);
    });
  }

  void keep(const LayerView& view, int r) {
    RowRecords& record = records_[view.layer];
    if (!record.residual.empty()) record.residual[r] = view.residual;
    if (!record.input.empty()) record.input[r] = view.input;
    if (!record.output.empty()) record.output[r] = view.output;
  }

  Result<std::vector<LayerValues>> train_block(int first, const Rows& rows, int batch_rows, double scale) {
    const auto joined = [](const std::vector<at::Tensor>& of_rows) { return of_rows.empty() ? at::Tensor() : at::cat(of_rows); };
    std::vector<LayerRecord> records;
    for (int l = first; l < first + block_; ++l) {
      const RowRecords taken = std::move(records_[l]);
      records.push_back({joined(taken.residual), joined(taken.input), joined(taken.output)});
    }
    const std::span<const std::vector<Leaf*>> leaves(by_layer_.data() + first, size_t(block_));
    return block_step({stage_, context_.teacher, context_.student, rows, batch_rows, first, block_, leaves, records, scale,
                       context_.group().alone() ? nullptr : &context_});
  }

  StepResult collect(const std::vector<LayerValues>& losses) const {
    StepResult result;
    for (size_t i = 0; i < stage_.losses.size(); ++i) {
      double sum = 0;
      int count = 0;
      LayerLoss by_layer{loss_name(stage_.losses[i].kind), std::vector<double>(losses.size(), std::numeric_limits<double>::quiet_NaN())};
      for (size_t l = 0; l < losses.size(); ++l) {
        if (losses[l].empty() || !losses[l][i]) continue;
        by_layer.values[l] = *losses[l][i];
        sum += *losses[l][i];
        ++count;
      }
      result.layers.push_back(std::move(by_layer));
      const double mean = count ? sum / count : 0;
      result.parts.push_back({loss_name(stage_.losses[i].kind), mean});
      result.loss += stage_.losses[i].weight * mean;
    }
    return result;
  }

  StageSpec stage_;
  StageContext context_;
  int block_ = 1;                             // layers that train together
  std::vector<std::vector<Leaf*>> by_layer_;
  std::vector<RowRecords> records_;
};

}  // namespace

std::vector<Parameter> stage_parameters(const StageSpec& stage, const std::vector<Leaf*>& leaves, bool layer_wise, const Reached* reached) {
  std::vector<Parameter> out;
  for (Leaf* leaf : leaves) {
    if (!leaf->gradient.defined()) leaf->gradient = at::zeros_like(leaf->share ? leaf->share->mine : leaf->value);
    for (const Leaf::Slice& s : leaf->slices) {
      if (!trains(stage, s.name, s.group) && !leaf->mixer) continue;
      std::vector<ElementRange> ranges = {{0, s.count}};
      if (reached) {
        const auto found = reached->find(s.name);
        ranges = found == reached->end() ? std::vector<ElementRange>{} : found->second;
      }
      for (const ElementRange& range : ranges) {
        const LeafMemory memory = memory_of(*leaf, s.offset + range.first, range.count);
        const std::string name = range.count == s.count ? s.name : cat(s.name, "[", range.first, ":", range.first + range.count, "]");
        out.push_back({name, s.group, s.decays, layer_wise ? std::max(leaf->layer, 0) : 0, memory.value, memory.gradient});
      }
    }
  }
  return out;
}

LeafMemory memory_of(const Leaf& leaf, int64_t first, int64_t count) {
  int64_t from = first;
  if (leaf.share) {
    const Share& share = *leaf.share;
    from = std::max(first, share.first);
    count = std::max<int64_t>(0, std::min(first + count, share.first + share.owned) - from);
    from = count > 0 ? from - share.first : 0;
  }
  const at::Tensor& value = leaf.share ? leaf.share->mine : leaf.value;
  LeafMemory out;
  out.value = {value.data_ptr<float>() + from, size_t(count)};
  if (leaf.gradient.defined()) out.gradient = {leaf.gradient.data_ptr<float>() + from, size_t(count)};
  return out;
}

std::unique_ptr<StageRunner> make_align_stage(const StageSpec& stage, StageContext context) {
  return std::make_unique<AlignStage>(stage, std::move(context));
}

}  // namespace retort::train
