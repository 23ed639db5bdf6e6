// Stages over pairs of answers: direct preference optimisation, against the teacher or against the student as it was
// ("Mamba in the Llama", stage 3).
//
// For every pair, with s and r the sums of log p over an answer's tokens by student and reference:
//   h = beta [(s_chosen - s_rejected) - (r_chosen - r_rejected)],   loss = mean of log(1 + exp(-h)),   dloss/dh = -sigmoid(-h) / pairs
// A row's s has its gradient by the hidden states as soon as it is computed, but for the factor dloss/ds, which takes both rows of the pair.
#include <algorithm>
#include <cmath>

#include "train/layer_pass.h"
#include "train/tasks.h"

namespace retort::train {
namespace {

// A row's conversation, and the positions before its answer's tokens.
struct Conversation {
  std::span<const int32_t> tokens;
  std::vector<int64_t> positions, targets;
};

struct RowPass {
  double student = 0, reference = 0;             // log p of the answer
  at::Tensor hidden_gradient, head_gradient;     // of the student's log p
};

struct Outcome {
  double loss = 0, right = 0, chosen = 0, rejected = 0;   // sums over pairs
};

class PreferenceStage : public StageRunner {
 public:
  PreferenceStage(const StageSpec& stage, StageContext context)
      : stage_(stage), loss_(*stage_.find(LossKind::kDpo)), context_(std::move(context)) {
    if (loss_.reference == Reference::kStart) made_ = copy_start();
  }
  ~PreferenceStage() override {
    for (const Leaf& copy : copies_) {
      if (copy.share) context_.shards->remove(copy.value);
    }
  }

  std::vector<Parameter> parameters() override { return stage_parameters(stage_, context_.leaves, false); }

  std::vector<Parameter> memory() override {
    std::vector<Parameter> out;
    for (size_t i = 0; i < copies_.size(); ++i) {
      for (const Leaf::Slice& s : context_.leaves[i]->slices) {
        out.push_back({s.name, s.group, s.decays, 0, memory_of(copies_[i], s.offset, s.count).value, {}});
      }
    }
    return out;
  }

  Result<StepResult> step(const Batch& batch, const StepContext& step) override {
    const double begin = processor_seconds();
    take_gemm_seconds();
    RETORT_RETURN_IF_ERROR(made_);
    const int pairs = batch.rows / 2, own = dealt(context_.group(), pairs), base = own * context_.group().rank();
    const double scale = loss_.weight * step.scale / pairs;
    // About as many rows at a time as there are threads: that bounds memory, and the order of the sums is the rows'.
    const int together = std::max(1, context_.together() / 2);
    Outcome sum;
    for (int first = 0; first < own; first += together) {
      RETORT_RETURN_IF_ERROR(pairs_step(batch, base + first, std::min(together, own - first), scale, sum));
    }
    return report(sum, pairs, begin);
  }

 private:
  // The student as it is now, in tensors of its own where the stage trains.
  Status copy_start() {
    std::vector<at::Tensor> values, copies;
    for (const Leaf* leaf : context_.leaves) {
      RETORT_TRY(const Shards::Hold hold, gather(context_, {leaf->value}));
      Leaf& copy = copies_.emplace_back(Leaf{leaf->value.detach().clone(), {}});
      if (leaf->share) copy.share = context_.shards->add(copy.value);
      values.push_back(leaf->value), copies.push_back(copy.value);
    }
    start_ = with_tensors(context_.student, values, copies);
    return {};
  }

  const TorchModel& reference() const { return loss_.reference == Reference::kStart ? start_ : context_.teacher; }

  // Pairs [first, first + count).
  Status pairs_step(const Batch& batch, int first, int count, double scale, Outcome& sum) {
    const std::vector<const TorchModel*> models = {&context_.student, &reference()};
    LayerPass pass(context_, models, stage_.checkpoint_activations);
    const int rows = 2 * count;
    std::vector<Conversation> conversations;
    for (int row = 0; row < rows; ++row) {
      const Conversation& c = conversations.emplace_back(conversation_of(batch, 2 * first + row));
      for (const TorchModel* model : models) pass.add(*model, c.tokens, rows_of(*model, c), torch::tensor(c.positions, at::kLong));
    }
    RETORT_RETURN_IF_ERROR(pass.forward());
    std::vector<RowPass> passes(rows);
    {
      RETORT_TRY(const Shards::Hold heads, gather_heads(context_, models));
      RETORT_RETURN_IF_ERROR(run_tasks(context_.pool, 2 * rows, [&](int64_t task) {
        const size_t row = size_t(task / 2);
        if (task % 2 == 0) passes[row].student = log_p(context_.student, pass.hidden(2 * row), conversations[row], &passes[row]);
        else passes[row].reference = log_p(reference(), pass.hidden(2 * row + 1), conversations[row], nullptr);
      }));
    }
    std::vector<at::Tensor> gradients(2 * size_t(rows)), of_head;
    for (int row = 0; row < rows; ++row) {
      const double slope = -loss_.beta / (1 + std::exp(margin(passes[row / 2 * 2], passes[row / 2 * 2 + 1])));   // dloss/ds of the chosen one
      const double factor = (row % 2 == 0 ? slope : -slope) * scale;
      gradients[2 * size_t(row)] = passes[row].hidden_gradient * factor;
      of_head.push_back(passes[row].head_gradient.defined() ? passes[row].head_gradient * factor : at::Tensor());
    }
    RETORT_RETURN_IF_ERROR(pass.backward(std::move(gradients)));
    RETORT_RETURN_IF_ERROR(add_head_gradient(context_, of_head));
    for (int row = 0; row < rows; row += 2) this->count(passes[row], passes[row + 1], sum);
    return {};
  }

  // The first sequence of a row; what follows it is padding.
  Conversation conversation_of(const Batch& batch, int row) const {
    const int64_t begin = int64_t(row) * batch.seq;
    const auto next = std::upper_bound(batch.starts.begin(), batch.starts.end(), int32_t(begin));
    const int64_t end = next == batch.starts.end() ? int64_t(batch.tokens.size()) : *next;
    Conversation out;
    out.tokens = {batch.tokens.data() + begin, size_t(end - begin)};
    for (int64_t t = begin; t + 1 < end; ++t) {
      if (!batch.labels[t + 1]) continue;
      out.positions.push_back(t - begin);
      out.targets.push_back(batch.tokens[t + 1]);
    }
    return out;
  }

  static Rows rows_of(const TorchModel& model, const Conversation& c) {
    return Rows::make({{0, int64_t(c.tokens.size())}}, model.config.rope, model.config.head_dim, model.wide());
  }

  // Sum of log p of the targets; with `pass` also its gradients.
  double log_p(const TorchModel& model, const at::Tensor& hidden, const Conversation& c, RowPass* pass) const {
    const at::NoGradGuard no_grad;
    const at::Tensor head = context_.token_rows(model.body.head.detach()).to(hidden.scalar_type());
    if (pass) pass->hidden_gradient = at::zeros(hidden.sizes(), model.wide());
    double sum = 0;
    for (int64_t i = 0; i < hidden.size(0); i += kLogitPositions) {
      const int64_t n = std::min(kLogitPositions, hidden.size(0) - i);
      const at::Tensor chunk = hidden.narrow(0, i, n);
      const at::Tensor log_p = at::log_softmax(product(chunk, head.t()).to(model.wide()), 1);
      const at::Tensor index = torch::tensor(std::vector<int64_t>(c.targets.begin() + i, c.targets.begin() + i + n), at::kLong).unsqueeze(1);
      sum += log_p.gather(1, index).to(at::kDouble).sum().item<double>();
      if (!pass) continue;
      at::Tensor d = log_p.exp().neg_();
      d.scatter_add_(1, index, at::ones({n, 1}, d.options()));
      const at::Tensor low = d.to(hidden.scalar_type());
      pass->hidden_gradient.narrow(0, i, n).copy_(product(low, head));
      if (!model.body.head.requires_grad()) continue;
      const at::Tensor d_head = product(low.t(), chunk).to(model.wide());
      pass->head_gradient = pass->head_gradient.defined() ? pass->head_gradient.add_(d_head) : d_head;
    }
    if (pass && pass->head_gradient.defined()) pass->head_gradient = padded_rows(pass->head_gradient, model.body.head);
    return sum;
  }

  double margin(const RowPass& chosen, const RowPass& rejected) const {
    return loss_.beta * ((chosen.student - rejected.student) - (chosen.reference - rejected.reference));
  }

  void count(const RowPass& chosen, const RowPass& rejected, Outcome& sum) const {
    const double h = margin(chosen, rejected);
    sum.loss += std::max(-h, 0.0) + std::log1p(std::exp(-std::fabs(h)));
    sum.right += h > 0;
    sum.chosen += loss_.beta * (chosen.student - chosen.reference);
    sum.rejected += loss_.beta * (rejected.student - rejected.reference);
  }

  StepResult report(const Outcome& sum, int pairs, double begin) const {
    StepResult result;
    result.parts.push_back({loss_name(LossKind::kDpo), sum.loss / pairs});
    result.loss = loss_.weight * sum.loss / pairs;
    result.measures = {{"accuracy", sum.right / pairs}, {"reward_chosen", sum.chosen / pairs}, {"reward_rejected", sum.rejected / pairs}};
    result.gemm_seconds = take_gemm_seconds();
    result.compute_seconds = processor_seconds() - begin;
    return result;
  }

  StageSpec stage_;
  LossSpec loss_;
  StageContext context_;
  TorchModel start_;                 // with `reference: start`
  std::vector<Leaf> copies_;         // its own tensors, one per leaf
  Status made_;                      // of the copies
};

}  // namespace

TorchModel with_tensors(const TorchModel& model, const std::vector<at::Tensor>& from, const std::vector<at::Tensor>& to) {
  TorchModel out = model;
  const auto replace = [&](at::Tensor& tensor) {
    for (size_t i = 0; i < from.size() && tensor.defined(); ++i) {
      if (!tensor.is_same(from[i])) continue;
      tensor = to[i];
      break;
    }
  };
  for (at::Tensor* tensor : {&out.body.embedding, &out.body.final_norm, &out.body.head}) replace(*tensor);
  for (Body::Layer& layer : out.body.layers) {
    for (at::Tensor* tensor : {&layer.input_norm, &layer.post_norm, &layer.gate_up, &layer.down}) replace(*tensor);
  }
  for (auto& parts : out.layers) {
    for (PartWeights& part : parts) {
      for (at::Tensor& value : part.values) replace(value);
    }
  }
  return out;
}

std::unique_ptr<StageRunner> make_preference_stage(const StageSpec& stage, StageContext context) {
  return std::make_unique<PreferenceStage>(stage, std::move(context));
}

}  // namespace retort::train
