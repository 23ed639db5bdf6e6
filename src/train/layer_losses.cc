#include "train/layer_losses.h"

#include <algorithm>
#include <cmath>

#include "train/layer_pass.h"
#include "train/matrix_losses.h"

namespace retort::train {
namespace {

// Loss and its gradient with respect to `y`. [T, D]
struct Compared {
  double loss = 0;
  at::Tensor gradient;
};

// kL2: the mean norm of a row, divided by `unit`. Of the rows of several ranks each has its share of the loss.
Compared compare(LossForm form, const at::Tensor& y, const at::Tensor& target, double unit, ProcessGroup& group, Status& status) {
  const at::Tensor difference = y - target;
  const double tokens = double(y.size(0)) * group.size(), width = double(y.size(1));
  switch (form) {
    case LossForm::kMse:
      return {difference.square().mean().item<double>() / group.size(), difference * (2.0 / (tokens * width))};
    case LossForm::kL2: {
      const at::Tensor norm = difference.norm(2, 1, true);
      return {norm.mean().item<double>() / (unit * group.size()), difference / norm.clamp_min(1e-20) / (tokens * unit)};
    }
    default: {
      double whole = target.square().sum().item<double>();
      if (const Status summed = sum(group, {&whole, 1}); !summed.ok()) status = summed;
      const double scale = 1.0 / std::max(whole, 1e-30);
      return {difference.square().sum().item<double>() * scale, difference * (2.0 * scale)};
    }
  }
}

// Whether the student's norm before the mixer is not the teacher's: some stage of the recipe trains it.
bool own_norm(const TorchModel& teacher, const TorchModel& student, int layer) {
  return !student.body.layers[layer].input_norm.is_same(teacher.body.layers[layer].input_norm);
}

class BlockStep {
 public:
  explicit BlockStep(const Block& block)
      : block_(block), values_(size_t(block.layers), LayerValues(block.stage.losses.size())), mixed_(size_t(block.layers)) {}

  Result<std::vector<LayerValues>> run() {
    const auto& losses = block_.stage.losses;
    for (int i = 0; i < block_.layers; ++i) {
      if (block_.leaves[i].empty()) continue;
      for (size_t k = 0; k < losses.size(); ++k) {
        if (losses[k].kind == LossKind::kAttnOut) values_[i][k] = losses[k].at_heads ? at_heads(i, losses[k]) : at_output(i, losses[k]);
      }
      at_matrices(i);
    }
    for (size_t k = 0; k < losses.size(); ++k) {
      if (losses[k].kind == LossKind::kHidden) values_.back()[k] = at_block(losses[k]);
    }
    RETORT_RETURN_IF_ERROR(summed_);
    RETORT_RETURN_IF_ERROR(add_gradients());
    return values_;
  }

 private:
  ProcessGroup& group() const { return block_.ranks ? block_.ranks->group() : one_process(); }
  Compared compare(LossForm form, const at::Tensor& y, const at::Tensor& target, double unit) {
    return train::compare(form, y, target, unit, group(), summed_);
  }
  const LayerRecord& record(int i) const { return block_.records[i]; }

  // What the student's layer makes of the teacher's residual stream before its mixers.
  at::Tensor input(int i) const {
    const int l = block_.first + i;
    if (!own_norm(block_.teacher, block_.student, l)) return record(i).input;
    return normed(i, record(i).residual);
  }
  at::Tensor normed(int i, const at::Tensor& residual) const {
    return rms_norm(residual, block_.student.body.layers[block_.first + i].input_norm, block_.student.config.norm_eps, block_.student.numeric);
  }
  // The mixers' output of a layer that is fed by the teacher; once, for several losses.
  const at::Tensor& mixed(int i) {
    if (!mixed_[i].defined()) mixed_[i] = run_mixers(block_.student, block_.first + i, input(i), block_.rows);
    return mixed_[i];
  }

  double keep(const at::Tensor& y, const Compared& compared, const LossSpec& loss) {
    if (y.requires_grad()) outputs_.push_back(y), seeds_.push_back((compared.gradient * (loss.weight * block_.scale)).to(y.scalar_type()));
    return compared.loss;
  }

  double at_output(int i, const LossSpec& loss) {
    const at::Tensor& y = mixed(i);
    return keep(y, compare(loss.form, y.detach(), record(i).output, std::sqrt(double(y.size(1)))), loss);
  }

  double at_heads(int i, const LossSpec& loss) {
    const int l = block_.first + i;
    at::Tensor theirs;
    {
      const at::NoGradGuard no_grad;
      theirs = run_part(block_.teacher.layers[l][0], record(i).input, block_.rows, block_.teacher.numeric, true);
    }
    const int64_t width = theirs.size(1) / block_.teacher.config.heads;
    std::vector<at::Tensor> own, wanted;
    const at::Tensor x = input(i);
    for (const PartWeights& part : block_.student.layers[l]) {
      own.push_back(run_part(part, x, block_.rows, block_.student.numeric, true));
      for (int h = 0; h < part.shape.heads; ++h) wanted.push_back(theirs.narrow(1, part.shape.layer_head(h) * width, width));
    }
    const at::Tensor y = at::cat(own, 1);
    return keep(y, compare(loss.form, y.detach(), at::cat(wanted, 1), std::sqrt(double(y.size(1)))), loss);
  }

  void at_matrices(int i) {
    std::vector<MatrixLoss> losses;
    std::vector<size_t> places;
    for (size_t k = 0; k < block_.stage.losses.size(); ++k) {
      const LossSpec& loss = block_.stage.losses[k];
      if (loss.kind != LossKind::kMatrix && loss.kind != LossKind::kAttnXent) continue;
      losses.push_back({loss.kind, loss.form, loss.weight * block_.scale / group().size()});
      places.push_back(k);
    }
    if (losses.empty()) return;
    const int l = block_.first + i;
    at::Tensor x = input(i);
    std::optional<MixingMatrices> teacher;
    for (const PartWeights& part : block_.student.layers[l]) {
      const bool trains = x.requires_grad() || std::any_of(part.values.begin(), part.values.end(), [](const at::Tensor& v) { return v.defined() && v.requires_grad(); });
      if (!trains && part.part.mixer == Attention::kName) continue;
      if (!teacher) {
        const at::NoGradGuard no_grad;
        teacher.emplace(block_.teacher.layers[l][0], record(i).input, block_.rows, block_.teacher.numeric);
      }
      MixingMatrices own(part, x, block_.rows, block_.student.numeric);
      add_matrix_losses(own, *teacher, block_.rows, block_.batch_rows, losses);
      own.append_gradients(outputs_, seeds_);
    }
    for (size_t k = 0; k < losses.size(); ++k) values_[i][places[k]] = losses[k].value / group().size();
  }

  std::optional<double> at_block(const LossSpec& loss) {
    if (std::all_of(block_.leaves.begin(), block_.leaves.end(), [](const auto& leaves) { return leaves.empty(); })) return {};
    const int last = block_.layers - 1;
    at::Tensor wanted;
    {
      const at::NoGradGuard no_grad;
      wanted = run_mlp(block_.teacher, block_.first + last, record(last).residual + record(last).output);
    }
    const at::Tensor& before = record(0).residual;
    at::Tensor h = run_mlp(block_.student, block_.first, before + mixed(0));
    for (int i = 1; i < block_.layers; ++i) {
      h = run_mlp(block_.student, block_.first + i, h + run_mixers(block_.student, block_.first + i, normed(i, h), block_.rows));
    }
    // Relative to what the block adds, not to the residual stream that it passes on.
    if (loss.form == LossForm::kRelative) return keep(h, compare(loss.form, h.detach() - before, wanted - before, 1), loss);
    return keep(h, compare(loss.form, h.detach(), wanted, 1), loss);
  }

  Status add_gradients() {
    if (outputs_.empty()) return {};
    std::vector<Leaf*> leaves;
    torch::autograd::variable_list values;
    for (const auto& of_layer : block_.leaves) {
      for (Leaf* leaf : of_layer) leaves.push_back(leaf), values.push_back(leaf->value);
    }
    const auto gradients = torch::autograd::grad(outputs_, values, seeds_, std::nullopt, false, true);
    for (size_t i = 0; i < leaves.size(); ++i) {
      if (block_.ranks) RETORT_RETURN_IF_ERROR(add_gradient(*block_.ranks, *leaves[i], {&gradients[i], 1}));
      else if (gradients[i].defined()) leaves[i]->gradient.add_(gradients[i]);
    }
    return {};
  }

  const Block& block_;
  std::vector<LayerValues> values_;
  std::vector<at::Tensor> mixed_;
  torch::autograd::variable_list outputs_, seeds_;
  Status summed_;   // over the ranks
};

}  // namespace

RecordNeeds record_needs(const StageSpec& stage, const TorchModel& teacher, const TorchModel& student, int layer) {
  RecordNeeds needs;
  const LossSpec *hidden = stage.find(LossKind::kHidden), *attn_out = stage.find(LossKind::kAttnOut);
  const bool matrices = stage.find(LossKind::kMatrix) || stage.find(LossKind::kAttnXent);
  const bool begins = hidden && layer % hidden->gap == 0, ends = hidden && (layer + 1) % hidden->gap == 0;
  const bool fed = attn_out || matrices || begins, own = own_norm(teacher, student, layer);
  needs.residual = begins || ends || (fed && own);
  needs.input = matrices || (attn_out && attn_out->at_heads) || (fed && !own);
  needs.output = ends || (attn_out && !attn_out->at_heads);
  return needs;
}

Result<std::vector<LayerValues>> block_step(const Block& block) { return BlockStep(block).run(); }

}  // namespace retort::train
