// End-to-end stages: teacher and student read the same rows; their distributions meet at a sample of the positions. Rows are
// independent tasks; their gradients are added in order.
#include <cmath>
#include <random>

#include "train/stages.h"
#include "train/tasks.h"
#include "train/top_logits.h"

namespace retort::train {
namespace {

// Positions of one row that are compared, and the token after each: -1 where a sequence ends.
struct Sample {
  at::Tensor positions;              // [n]
  std::vector<int64_t> targets;      // [n]
  std::vector<float> labels;         // [n]: 1 where the next token is a label, otherwise 0
  int64_t followed = 0, labelled = 0;
  int64_t drawn_from = 0, labelled_drawn_from = 0;   // how many there were to draw from, and of them before labels

  bool empty() const { return targets.empty(); }
};

// What both models made of one row at the sampled positions; the student's with its graph.
struct RowPass {
  at::Tensor hidden, wanted;         // [n, D]; wanted only where a loss asks the teacher
  TopLogits top;                     // instead of wanted, with a cache; of every position
};

struct RowResult {
  double kl = 0, soft = 0, ce = 0;   // sums over the sample
  std::vector<at::Tensor> gradients;
  at::Tensor head_gradient;
};

// Of a batch's samples: positions, those with a next token, those whose next token is a label.
struct Totals {
  double positions = 0, followed = 0, labelled = 0;
  double drawn_from = 0, labelled_drawn_from = 0;
  double rows = 0;
};

class LogitStage : public StageRunner {
 public:
  LogitStage(const StageSpec& stage, StageContext context) : stage_(stage), context_(std::move(context)) {
    const LossSpec* logits = stage_.find(LossKind::kLogits);
    needs_teacher_ = logits != nullptr;
    if (logits) temperature_ = logits->temperature;
    for (const LossSpec& loss : stage_.losses) only_labels_ = only_labels_ && loss.mask == LossMask::kLabels;
  }

  std::vector<Parameter> parameters() override { return stage_parameters(stage_, context_.leaves, false); }

  Status switch_teacher() override {
    RETORT_TRY(auto second, context_.open_second());
    second_ = std::make_unique<const OtherTeacher>(std::move(second));
    return {};
  }

  void use_cache(std::shared_ptr<LogitCache> cache) override { cache_ = std::move(cache); }

  Result<StepResult> step(const Batch& batch, const StepContext& step) override {
    const double begin = processor_seconds();
    take_gemm_seconds();
    std::vector<Sample> samples;
    Totals totals;
    for (int r = 0; r < batch.rows; ++r) {
      samples.push_back(choose(batch, r, step.seed));
      totals.positions += double(samples.back().targets.size());
      totals.followed += double(samples.back().followed);
      totals.labelled += double(samples.back().labelled);
      totals.drawn_from += double(samples.back().drawn_from);
      totals.labelled_drawn_from += double(samples.back().labelled_drawn_from);
    }
    totals.rows = double(batch.rows);
    RowResult sum;
    // As many rows at a time as there are threads: that bounds memory, and the order of the sums is the rows'.
    for (int first = 0; first < batch.rows; first += context_.pool.size()) {
      const int count = std::min(context_.pool.size(), batch.rows - first);
      std::vector<RowPass> passes(count);
      std::vector<RowResult> results(count);
      std::vector<Status> cached(count);
      // The teacher's pass and the student's are independent: a single row keeps two threads busy.
      RETORT_RETURN_IF_ERROR(run_tasks(context_.pool, 2 * count, [&](int64_t task) {
        const int i = int(task / 2), row = first + i;
        if (cache_ && task % 2 == 1) cached[i] = cached_pass(batch, row, passes[i]);
        if (samples[row].empty()) return;
        if (task % 2 == 0) student_pass(batch, row, samples[row], passes[i]);
        else if (needs_teacher_ && !cache_) teacher_pass(batch, row, samples[row], passes[i]);
      }));
      for (int i = 0; i < count && cache_; ++i) {
        RETORT_RETURN_IF_ERROR(cached[i]);
        RETORT_RETURN_IF_ERROR(keep(batch, first + i, passes[i].top));
      }
      RETORT_RETURN_IF_ERROR(run_tasks(context_.pool, count, [&](int64_t i) {
        if (!samples[first + i].empty()) results[i] = row_step(samples[first + i], totals, step.scale, passes[i]);
      }));
      for (RowResult& result : results) add(result, sum);
    }
    return report(sum, totals, begin);
  }

 private:
  // Where no loss looks at anything but labels, only positions before labels are candidates.
  Sample choose(const Batch& batch, int row, uint64_t seed) const {
    const int64_t base = int64_t(row) * batch.seq;
    const auto target = [&](int64_t t) {
      const bool ends = t + 1 == batch.seq || std::binary_search(batch.starts.begin(), batch.starts.end(), int32_t(base + t + 1));
      return ends ? -1 : int64_t(batch.tokens[base + t + 1]);
    };
    const auto is_label = [&](int64_t t) { return target(t) >= 0 && (batch.labels.empty() || batch.labels[base + t + 1]); };
    std::vector<int64_t> all;
    for (int64_t t = 0; t < batch.seq; ++t) {
      if (!only_labels_ || batch.labels.empty() || is_label(t)) all.push_back(t);
    }
    const int64_t candidates = int64_t(all.size());
    Sample sample;
    sample.drawn_from = candidates;
    sample.labelled_drawn_from = std::count_if(all.begin(), all.end(), is_label);
    const int64_t count = std::min(candidates, std::max<int64_t>(1, std::llround(stage_.logit_fraction * double(candidates))));
    std::mt19937_64 random(seed * 0x9e3779b97f4a7c15ull + uint64_t(row));
    for (int64_t i = 0; i < count; ++i) std::swap(all[i], all[i + int64_t(random() % uint64_t(candidates - i))]);
    all.resize(count);
    std::sort(all.begin(), all.end());
    for (int64_t t : all) {
      sample.targets.push_back(target(t));
      sample.labels.push_back(is_label(t) ? 1.0f : 0.0f);
      sample.followed += target(t) >= 0;
      sample.labelled += is_label(t);
    }
    sample.positions = torch::tensor(all, at::kLong);
    return sample;
  }

  static std::span<const int32_t> row_tokens(const Batch& batch, int row) {
    return {batch.tokens.data() + int64_t(row) * batch.seq, size_t(batch.seq)};
  }

  const TorchModel& teacher() const { return second_ ? second_->model : context_.teacher; }

  void teacher_pass(const Batch& batch, int row, const Sample& sample, RowPass& pass) const {
    const at::NoGradGuard no_grad;
    const Rows rows = batch_rows(teacher(), batch, row, 1);
    pass.wanted = run_model(teacher(), row_tokens(batch, row), rows).index_select(0, sample.positions);
  }

  static int64_t place(const Batch& batch, int row) { return batch.number * batch.rows + row; }

  // From the cache, or from the teacher where it has none yet.
  Status cached_pass(const Batch& batch, int row, RowPass& pass) const {
    if (place(batch, row) < cache_->rows()) {
      RETORT_TRY(pass.top, cache_->read(place(batch, row), row_hash(batch, row)));
    } else {
      pass.top = top_logits(context_.teacher, row_tokens(batch, row), batch_rows(context_.teacher, batch, row, 1), cache_->shape().top_k, temperature_);
    }
    return {};
  }

  // Rows before those of a resumed run may be missing, when the folder was removed meanwhile: then nothing is added.
  Status keep(const Batch& batch, int row, TopLogits& top) const {
    if (place(batch, row) < cache_->rows()) return {};
    if (place(batch, row) == cache_->rows()) {
      RETORT_RETURN_IF_ERROR(cache_->append(row_hash(batch, row), top));
      return cache_->flush();
    }
    RETORT_TRY(top, cache_->rounded(top));
    return {};
  }

  void student_pass(const Batch& batch, int row, const Sample& sample, RowPass& pass) const {
    const Rows rows = batch_rows(context_.student, batch, row, 1);
    pass.hidden = run_model(context_.student, row_tokens(batch, row), rows).index_select(0, sample.positions);
  }

  RowResult row_step(const Sample& sample, const Totals& totals, double scale, const RowPass& pass) const {
    const at::Tensor& hidden = pass.hidden;
    RowResult result;
    at::Tensor gradient = at::zeros(hidden.sizes(), at::kFloat);
    {
      const at::NoGradGuard no_grad;
      for (int64_t i = 0; i < hidden.size(0); i += kLogitPositions) {
        const int64_t n = std::min(kLogitPositions, hidden.size(0) - i);
        gradient.narrow(0, i, n).copy_(
            compare(hidden.detach().narrow(0, i, n), pass, sample, i, totals, result));
      }
    }
    result.gradients = leaf_gradients(context_, hidden, gradient * scale);
    if (result.head_gradient.defined()) result.head_gradient.mul_(scale);
    return result;
  }

  // Gradient of the stage's loss with respect to hidden states [n, D]; losses are added to `result`.
  at::Tensor compare(const at::Tensor& hidden, const RowPass& pass, const Sample& sample, int64_t first, const Totals& totals,
                     RowResult& result) const {
    const at::Tensor& head = context_.student.body.head;
    const at::Tensor narrow_head = head.detach().to(hidden.scalar_type());
    const at::Tensor logits = product(hidden, narrow_head.t()).to(at::kFloat);
    at::Tensor d_logits;
    for (const LossSpec& loss : stage_.losses) {
      at::Tensor d = loss.kind == LossKind::kCe
                         ? hard_loss(logits, sample, first, totals, loss, result)
                         : soft_loss(logits, pass, sample, first, totals, loss, result);
      d_logits = d_logits.defined() ? d_logits.add_(d) : d;
    }
    const at::Tensor low = d_logits.to(hidden.scalar_type());
    if (head.requires_grad()) {
      const at::Tensor d_head = product(low.t(), hidden).to(at::kFloat);
      result.head_gradient = result.head_gradient.defined() ? result.head_gradient.add_(d_head) : d_head;
    }
    return product(low, narrow_head).to(at::kFloat);
  }

  // 1 at the positions [first, first + n) of a sample that the loss counts. [n, 1]
  static at::Tensor mask_of(const Sample& sample, int64_t first, int64_t n) {
    return torch::tensor(std::vector<float>(sample.labels.begin() + first, sample.labels.begin() + first + n)).unsqueeze(1);
  }

  // What a sum over the sampled positions is multiplied by: one over their number, or for batch_mean what estimates the sum over all positions,
  // over the rows.
  static double share(const LossSpec& loss, const Totals& totals) {
    const bool labels = loss.mask == LossMask::kLabels;
    const double mean = 1 / std::max(labels ? totals.labelled : loss.kind == LossKind::kCe ? totals.followed : totals.positions, 1.0);
    if (loss.reduction != Reduction::kBatchMean) return mean;
    return (labels ? totals.labelled_drawn_from : totals.drawn_from) * mean / totals.rows;
  }

  // Against the teacher's whole distributions, from its hidden states [n, D].
  SoftSums whole_loss(const at::Tensor& logits, const at::Tensor& wanted, const at::Tensor& mask, double t) const {
    const int64_t tokens = second_ ? second_->tokens : logits.size(1);
    at::Tensor teacher = product(wanted, this->teacher().body.head.t()).to(at::kFloat), student = logits;
    if (second_) teacher = teacher.narrow(1, 0, tokens), student = student.narrow(1, 0, tokens);
    const at::Tensor log_student = at::log_softmax(t == 1 ? student : student / t, 1), log_teacher = at::log_softmax(t == 1 ? teacher : teacher / t, 1);
    const at::Tensor p = log_teacher.exp();
    if (mask.defined()) p.mul_(mask);
    SoftSums sums;
    sums.cross = -(p * log_student).sum().item<double>(), sums.entropy = -(p * log_teacher).sum().item<double>();
    const at::Tensor q = log_student.exp_();
    if (mask.defined()) q.mul_(mask);
    sums.gradient = q.sub_(p);
    if (tokens < logits.size(1)) sums.gradient = at::constant_pad_nd(sums.gradient, {0, logits.size(1) - tokens});
    return sums;
  }

  at::Tensor soft_loss(const at::Tensor& logits, const RowPass& pass, const Sample& sample, int64_t first, const Totals& totals,
                       const LossSpec& loss, RowResult& result) const {
    const double t = loss.temperature;
    const int64_t n = logits.size(0);
    at::Tensor mask;
    if (loss.mask == LossMask::kLabels) mask = mask_of(sample, first, n);
    const SoftSums sums = cache_ ? top_loss(t == 1 ? logits : logits / t, targets_at(pass.top, cache_->shape().top_k, sample.positions.narrow(0, first, n)), mask)
                                 : whole_loss(logits, pass.wanted.narrow(0, first, n), mask, t);
    // kl carries the factor t^2; its gradient by the logits has 1/t.
    const double factor = loss.form == LossForm::kKl ? t * t : 1.0;
    result.kl += (sums.cross - sums.entropy) * factor;
    result.soft += sums.cross * factor;
    at::Tensor gradient = sums.gradient;
    return gradient.mul_(loss.weight * share(loss, totals) * factor / t);
  }

  at::Tensor hard_loss(const at::Tensor& logits, const Sample& sample, int64_t first, const Totals& totals, const LossSpec& loss,
                       RowResult& result) const {
    const at::Tensor log_p = at::log_softmax(logits, 1);
    std::vector<int64_t> target(sample.targets.begin() + first, sample.targets.begin() + first + logits.size(0));
    std::vector<float> weight;
    for (int64_t& id : target) {
      weight.push_back(id < 0 ? 0.0f : 1.0f);
      id = std::max<int64_t>(id, 0);
    }
    const at::Tensor index = torch::tensor(target, at::kLong).unsqueeze(1);
    const at::Tensor mask = loss.mask == LossMask::kLabels ? mask_of(sample, first, logits.size(0)) : torch::tensor(weight).unsqueeze(1);
    result.ce -= (log_p.gather(1, index) * mask).sum().item<double>();
    at::Tensor d = log_p.exp();
    d.scatter_add_(1, index, -at::ones_like(mask));
    return d.mul_(mask).mul_(loss.weight * share(loss, totals));
  }

  void add(RowResult& row, RowResult& sum) const {
    sum.kl += row.kl, sum.soft += row.soft, sum.ce += row.ce;
    add_gradients(context_, row.gradients, row.head_gradient);
    row = {};
  }

  StepResult report(const RowResult& sum, const Totals& totals, double begin) const {
    StepResult result;
    for (const LossSpec& loss : stage_.losses) {
      const bool hard = loss.kind == LossKind::kCe;
      const double value = (hard ? sum.ce : loss.form == LossForm::kKl ? sum.kl : sum.soft) * share(loss, totals);
      result.parts.push_back({loss_name(loss.kind), value});
      result.loss += loss.weight * value;
    }
    result.gemm_seconds = take_gemm_seconds();
    result.compute_seconds = processor_seconds() - begin;
    return result;
  }

  StageSpec stage_;
  StageContext context_;
  std::unique_ptr<const OtherTeacher> second_;   // asked in place of the first from when it is there
  std::shared_ptr<LogitCache> cache_;
  double temperature_ = 1;
  bool needs_teacher_ = false, only_labels_ = true;
};

}  // namespace

std::vector<at::Tensor> leaf_gradients(const StageContext& context, const at::Tensor& hidden, const at::Tensor& gradient) {
  std::vector<at::Tensor> values;
  for (const Leaf* leaf : context.leaves) values.push_back(leaf->value);
  if (!hidden.requires_grad()) return std::vector<at::Tensor>(values.size());  // only the head trains
  return torch::autograd::grad({hidden}, values, {gradient.to(hidden.scalar_type())}, std::nullopt, false, true);
}

void add_gradients(const StageContext& context, const std::vector<at::Tensor>& gradients, const at::Tensor& head_gradient) {
  for (size_t i = 0; i < gradients.size(); ++i) {
    Leaf& leaf = *context.leaves[i];
    if (gradients[i].defined()) leaf.gradient.add_(gradients[i]);
    if (head_gradient.defined() && leaf.value.is_same(context.student.body.head)) leaf.gradient.add_(head_gradient);
  }
}

std::unique_ptr<StageRunner> make_logit_stage(const StageSpec& stage, StageContext context) {
  return std::make_unique<LogitStage>(stage, std::move(context));
}

}  // namespace retort::train
