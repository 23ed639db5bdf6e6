// End-to-end stages: teacher and student read the same rows; their distributions meet at a sample of the positions. Rows are
// independent; their gradients are added in order.
#include <algorithm>
#include <cmath>
#include <optional>
#include <random>

#include "train/layer_pass.h"
#include "train/logit_rows.h"
#include "train/shared_cache.h"
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

// One row: where it is in the pass, and what the teacher says of it.
struct RowPass {
  std::optional<size_t> student, teacher;
  at::Tensor wanted;                 // the teacher's hidden states [n, D], where a loss asks it
  TopLogits top;                     // instead of them, with a cache; of every position
};

// What the losses made of some positions: sums.
struct LossSums {
  double kl = 0, soft = 0, ce = 0;
  at::Tensor head_gradient;
};

// Some of a row's sample, for one task.
struct Piece {
  int row;
  int64_t first, count;
  LossSums result;
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

  ~LogitStage() override {
    if (second_ && context_.shards) context_.shards->remove(*second_);
  }

  std::vector<Parameter> parameters() override { return stage_parameters(stage_, context_.leaves, false); }

  Status switch_teacher(const std::string& hash) override {
    RETORT_TRY(auto second, context_.open_second(hash));
    second_ = std::make_unique<const TorchModel>(std::move(second));
    return {};
  }

  void use_cache(std::shared_ptr<LogitCache> cache) override { cache_.emplace(std::move(cache), context_.group()); }

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
    if (cache_) RETORT_RETURN_IF_ERROR(cache_->begin(batch));
    // This rank's rows; what they are part of, the totals, is known to all.
    const int own = dealt(context_.group(), batch.rows), base = own * context_.group().rank();
    LossSums sum;
    // As many rows at a time as there are threads: that bounds memory, and the order of the sums is the rows'.
    for (int first = 0; first < own; first += context_.together()) {
      RETORT_RETURN_IF_ERROR(rows_step(batch, base + first, std::min(context_.together(), own - first), samples, totals, step.scale, sum));
    }
    if (cache_) RETORT_RETURN_IF_ERROR(cache_->end());
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

  const TorchModel& teacher() const { return second_ ? *second_ : context_.teacher; }

  // Rows [first, first + count).
  Status rows_step(const Batch& batch, int first, int count, const std::vector<Sample>& samples, const Totals& totals, double scale, LossSums& sum) {
    std::vector<const TorchModel*> models = {&context_.student};
    if (needs_teacher_ && !(cache_ && cache_->has_all())) models.push_back(&teacher());
    LayerPass pass(context_, models, stage_.checkpoint_activations);
    const auto add = [&](const TorchModel& model, int row, const at::Tensor& positions) {
      return pass.add(model, row_tokens(batch, row), batch_rows(model, batch, row, 1), positions);
    };
    std::vector<RowPass> rows(size_t(count), RowPass{});
    for (int i = 0; i < count; ++i) {
      const Sample& sample = samples[first + i];
      if (!sample.empty()) rows[i].student = add(context_.student, first + i, sample.positions);
      // What goes into a cache is of all positions, whatever the sample.
      if (cache_ && !cache_->has(first + i)) rows[i].teacher = add(teacher(), first + i, torch::arange(batch.seq, at::kLong));
      if (!cache_ && needs_teacher_ && !sample.empty()) rows[i].teacher = add(teacher(), first + i, sample.positions);
    }
    if (cache_) RETORT_RETURN_IF_ERROR(agree(context_.group(), read_cached(first, rows)));
    RETORT_RETURN_IF_ERROR(pass.forward());
    std::vector<at::Tensor> gradients(2 * size_t(count));
    std::vector<Piece> pieces;
    for (int i = 0; i < count; ++i) {
      if (!rows[i].student) continue;
      gradients[*rows[i].student] = at::empty(pass.hidden(*rows[i].student).sizes(), at::kFloat);
      add_pieces(i, int64_t(samples[first + i].targets.size()), pieces);
    }
    {
      RETORT_TRY(const Shards::Hold heads, gather_heads(context_, models));
      RETORT_RETURN_IF_ERROR(ask_teacher(pass, first, rows));
      RETORT_RETURN_IF_ERROR(run_tasks(context_.pool, int64_t(pieces.size()), [&](int64_t i) {
        Piece& piece = pieces[size_t(i)];
        const RowPass& row = rows[size_t(piece.row)];
        piece_losses(pass.hidden(*row.student), row, samples[size_t(first + piece.row)], totals, scale, gradients[*row.student], piece);
      }));
    }
    std::vector<at::Tensor> of_head;
    for (const Piece& piece : pieces) {
      of_head.push_back(piece.result.head_gradient);
      sum.kl += piece.result.kl, sum.soft += piece.result.soft, sum.ce += piece.result.ce;
    }
    RETORT_RETURN_IF_ERROR(pass.backward(std::move(gradients)));
    return add_head_gradient(context_, of_head);
  }

  // Positions are independent, but each piece of them would have a whole gradient of the head.
  void add_pieces(int row, int64_t positions, std::vector<Piece>& pieces) const {
    const int64_t step = context_.student.body.head.requires_grad() ? positions : kLogitPositions;
    for (int64_t i = 0; i < positions; i += step) pieces.push_back({row, i, std::min(step, positions - i), {}});
  }

  Status read_cached(int first, std::vector<RowPass>& rows) const {
    std::vector<Status> read(rows.size());
    RETORT_RETURN_IF_ERROR(run_tasks(context_.pool, int64_t(rows.size()), [&](int64_t i) {
      if (!cache_->has(first + int(i))) return;
      auto top = cache_->read(first + int(i));
      if (top.ok()) rows[i].top = std::move(*top);
      else read[i] = top.error();
    }));
    for (const Status& status : read) RETORT_RETURN_IF_ERROR(status);
    return {};
  }

  // From its hidden states: they themselves are wanted, or with a cache its largest logits.
  Status ask_teacher(const LayerPass& pass, int first, std::vector<RowPass>& rows) {
    RETORT_RETURN_IF_ERROR(run_tasks(context_.pool, int64_t(rows.size()), [&](int64_t i) {
      if (!rows[i].teacher) return;
      const at::Tensor& hidden = pass.hidden(*rows[i].teacher);
      if (cache_) rows[i].top = top_logits(hidden, context_.token_rows(teacher().body.head), cache_->shape().top_k, temperature_);
      else rows[i].wanted = hidden;
    }));
    return cache_ ? agree(context_.group(), keep_asked(first, rows)) : Status();
  }

  Status keep_asked(int first, std::vector<RowPass>& rows) {
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].teacher) RETORT_RETURN_IF_ERROR(cache_->keep(first + int(i), rows[i].top));
    }
    return {};
  }

  // `gradient` is of all hidden states of the row [n, D]; the piece's rows of it are written.
  void piece_losses(const at::Tensor& hidden, const RowPass& pass, const Sample& sample, const Totals& totals, double scale, const at::Tensor& gradient,
                    Piece& piece) const {
    const at::NoGradGuard no_grad;
    for (int64_t i = piece.first; i < piece.first + piece.count; i += kLogitPositions) {
      const int64_t n = std::min(kLogitPositions, piece.first + piece.count - i);
      gradient.narrow(0, i, n).copy_(compare(hidden.narrow(0, i, n), pass, sample, i, totals, piece.result)).mul_(scale);
    }
    at::Tensor& of_head = piece.result.head_gradient;
    if (of_head.defined()) of_head = padded_rows(of_head.mul_(scale), context_.student.body.head);
  }

  // Gradient of the stage's loss with respect to hidden states [n, D]; losses are added to `result`.
  at::Tensor compare(const at::Tensor& hidden, const RowPass& pass, const Sample& sample, int64_t first, const Totals& totals,
                     LossSums& result) const {
    const at::Tensor head = context_.token_rows(context_.student.body.head);
    const at::Tensor narrow_head = head.detach().to(hidden.scalar_type());
    const at::Tensor logits = product(hidden, narrow_head.t());
    const bool by_rows = logits.scalar_type() == at::kBFloat16 && !cache_;
    const at::Tensor low = by_rows ? losses_by_rows(logits, pass, sample, first, totals, result)
                                   : losses_by_tensors(logits.to(at::kFloat), pass, sample, first, totals, result).to(hidden.scalar_type());
    if (head.requires_grad()) {
      const at::Tensor d_head = product(low.t(), hidden).to(at::kFloat);
      result.head_gradient = result.head_gradient.defined() ? result.head_gradient.add_(d_head) : d_head;
    }
    return product(low, narrow_head);
  }

  // The losses' gradient by the logits [n, V], in bf16. Positions first.. of the sample.
  at::Tensor losses_by_rows(const at::Tensor& logits, const RowPass& pass, const Sample& sample, int64_t first, const Totals& totals,
                            LossSums& result) const {
    const int64_t n = logits.size(0), columns = logits.size(1);
    const auto bits = [](const at::Tensor& t) { return static_cast<uint16_t*>(t.data_ptr()); };
    at::Tensor teacher;
    if (needs_teacher_) teacher = product(pass.wanted.narrow(0, first, n), context_.token_rows(this->teacher().body.head).t());
    rows::LogitRow row(columns);
    for (int64_t i = 0; i < n; ++i) {
      row.begin(bits(logits) + i * columns);
      const size_t at = size_t(first + i);
      for (const LossSpec& loss : stage_.losses) {
        const float mask = loss.mask == LossMask::kLabels ? sample.labels[at] : 1.0f;
        const double weight = mask * loss.weight * share(loss, totals);
        if (mask == 0 || (loss.kind == LossKind::kCe && sample.targets[at] < 0)) continue;
        if (loss.kind == LossKind::kCe) {
          result.ce += row.add_hard(sample.targets[at], float(weight));
          continue;
        }
        const double factor = soft_factor(loss);
        const auto soft = row.add_soft(bits(teacher) + i * columns, float(loss.temperature), float(weight * factor / loss.temperature));
        result.kl += (soft.cross - soft.entropy) * factor;
        result.soft += soft.cross * factor;
      }
      row.end(bits(logits) + i * columns);
    }
    return logits;
  }

  // The same in LibTorch's operations, for other types and a cache's targets.
  at::Tensor losses_by_tensors(const at::Tensor& logits, const RowPass& pass, const Sample& sample, int64_t first, const Totals& totals,
                               LossSums& result) const {
    at::Tensor d_logits;
    for (const LossSpec& loss : stage_.losses) {
      at::Tensor d = loss.kind == LossKind::kCe ? hard_loss(logits, sample, first, totals, loss, result)
                                                : soft_loss(logits, pass, sample, first, totals, loss, result);
      d_logits = d_logits.defined() ? d_logits.add_(d) : d;
    }
    return d_logits;
  }

  // kl carries the factor t^2; its gradient by the logits has 1/t.
  static double soft_factor(const LossSpec& loss) { return loss.form == LossForm::kKl ? loss.temperature * loss.temperature : 1.0; }

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
    const at::Tensor teacher = product(wanted, context_.token_rows(this->teacher().body.head).t()).to(at::kFloat);
    const at::Tensor log_student = at::log_softmax(t == 1 ? logits : logits / t, 1), log_teacher = at::log_softmax(t == 1 ? teacher : teacher / t, 1);
    const at::Tensor p = log_teacher.exp();
    if (mask.defined()) p.mul_(mask);
    SoftSums sums;
    sums.cross = -(p * log_student).sum().item<double>(), sums.entropy = -(p * log_teacher).sum().item<double>();
    const at::Tensor q = log_student.exp_();
    if (mask.defined()) q.mul_(mask);
    sums.gradient = q.sub_(p);
    return sums;
  }

  at::Tensor soft_loss(const at::Tensor& logits, const RowPass& pass, const Sample& sample, int64_t first, const Totals& totals,
                       const LossSpec& loss, LossSums& result) const {
    const double t = loss.temperature;
    const int64_t n = logits.size(0);
    at::Tensor mask;
    if (loss.mask == LossMask::kLabels) mask = mask_of(sample, first, n);
    const SoftSums sums = cache_ ? top_loss(t == 1 ? logits : logits / t, targets_at(pass.top, cache_->shape().top_k, sample.positions.narrow(0, first, n)), mask)
                                 : whole_loss(logits, pass.wanted.narrow(0, first, n), mask, t);
    const double factor = soft_factor(loss);
    result.kl += (sums.cross - sums.entropy) * factor;
    result.soft += sums.cross * factor;
    at::Tensor gradient = sums.gradient;
    return gradient.mul_(loss.weight * share(loss, totals) * factor / t);
  }

  at::Tensor hard_loss(const at::Tensor& logits, const Sample& sample, int64_t first, const Totals& totals, const LossSpec& loss,
                       LossSums& result) const {
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

  StepResult report(const LossSums& sum, const Totals& totals, double begin) const {
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
  std::unique_ptr<const TorchModel> second_;   // asked in place of the first from when it is there
  std::optional<SharedCache> cache_;
  double temperature_ = 1;
  bool needs_teacher_ = false, only_labels_ = true;
};

}  // namespace

std::unique_ptr<StageRunner> make_logit_stage(const StageSpec& stage, StageContext context) {
  return std::make_unique<LogitStage>(stage, std::move(context));
}

}  // namespace retort::train
