#include "train/lora.h"

#include <algorithm>
#include <cmath>
#include <deque>

#include "base/hash.h"
#include "train/tasks.h"

namespace retort::train {
namespace {

// One target's update.
struct Update {
  LoraTarget target;
  size_t base = 0;                 // which of the bases it is in
  int64_t offset = 0;              // its first number there
  at::Tensor a, b, a_gradient, b_gradient;

  at::Tensor block(const at::Tensor& whole) const {
    return whole.detach().view({-1}).narrow(0, offset, target.rows * target.columns).view({target.rows, target.columns});
  }
};

class LoraStage : public StageRunner {
 public:
  LoraStage(const StageSpec& stage, const std::vector<LoraTarget>& targets, const std::vector<Leaf*>& bases, StageContext context, uint64_t seed)
      : scale_(stage.lora.alpha / stage.lora.r), layer_wise_(stage.layer_wise()), bases_(bases), pool_(context.pool) {
    std::vector<at::Tensor> from, to;
    for (const Leaf* base : bases_) {
      Leaf& leaf = adapted_.emplace_back(*base);
      leaf.value = base->value.detach().clone().set_requires_grad(true);
      leaf.gradient = at::zeros_like(base->value);
      from.push_back(base->value), to.push_back(leaf.value);
    }
    for (const LoraTarget& target : targets) add_update(stage, target, seed);
    student_ = with_tensors(context.student, from, to);
    std::vector<Leaf*> leaves = context.leaves;
    for (Leaf& leaf : adapted_) leaves.push_back(&leaf);
    inner_ = make_stage_runner(stage, StageContext{context.teacher, student_, context.pool, std::move(leaves), std::move(context.reached), std::move(context.open_second)});
  }

  std::vector<Parameter> parameters() override {
    std::vector<Parameter> out;
    for (Parameter& parameter : inner_->parameters()) {
      if (!in_adapted(parameter.value.data())) out.push_back(std::move(parameter));
    }
    for (Update& u : updates_) {
      const int group = layer_wise_ ? std::max(bases_[u.base]->layer, 0) : 0;
      out.push_back({u.target.name + ".lora_A", u.target.group, true, group, numbers(u.a), numbers(u.a_gradient)});
      out.push_back({u.target.name + ".lora_B", u.target.group, true, group, numbers(u.b), numbers(u.b_gradient)});
    }
    return out;
  }

  Result<StepResult> step(const Batch& batch, const StepContext& context) override {
    RETORT_RETURN_IF_ERROR(adapt());
    RETORT_TRY(auto result, inner_->step(batch, context));
    RETORT_RETURN_IF_ERROR(run_tasks(pool_, int64_t(updates_.size()), [&](int64_t i) {
      const at::NoGradGuard no_grad;
      Update& u = updates_[size_t(i)];
      const at::Tensor gradient = u.block(adapted_[u.base].gradient);
      u.a_gradient.addmm_(u.b.t(), gradient, 1, scale_);
      u.b_gradient.addmm_(gradient, u.a.t(), 1, scale_);
    }));
    for (Leaf& leaf : adapted_) leaf.gradient.zero_();
    return result;
  }

  std::vector<Parameter> memory() override {
    std::vector<Parameter> out = inner_->memory();
    for (Update& u : updates_) {
      out.push_back({u.target.name + ".lora_A", u.target.group, false, 0, numbers(u.a), {}});
      out.push_back({u.target.name + ".lora_B", u.target.group, false, 0, numbers(u.b), {}});
    }
    return out;
  }

  Status switch_teacher() override { return inner_->switch_teacher(); }
  void use_cache(std::shared_ptr<LogitCache> cache) override { inner_->use_cache(std::move(cache)); }

  void finish() override {
    inner_->finish();
    const at::NoGradGuard no_grad;
    for (const Update& u : updates_) u.block(bases_[u.base]->value).addmm_(u.b, u.a, 1, scale_);
  }

 private:
  static std::span<float> numbers(const at::Tensor& tensor) { return {tensor.data_ptr<float>(), size_t(tensor.numel())}; }

  void add_update(const StageSpec& stage, const LoraTarget& target, uint64_t seed) {
    for (size_t base = 0; base < bases_.size(); ++base) {
      for (const Leaf::Slice& slice : bases_[base]->slices) {
        if (slice.name != target.tensor) continue;
        auto random = at::detail::createCPUGenerator(fnv1a(cat(stage.name, "/", target.name), kFnvStart ^ seed));
        const double bound = 1 / std::sqrt(double(target.columns));
        Update u{target, base, slice.offset + target.first_row * target.columns, at::empty({stage.lora.r, target.columns}, at::kFloat), {}, {}, {}};
        u.a.uniform_(-bound, bound, random);
        u.b = at::zeros({target.rows, stage.lora.r}, at::kFloat);
        u.a_gradient = at::zeros_like(u.a), u.b_gradient = at::zeros_like(u.b);
        updates_.push_back(std::move(u));
      }
    }
  }

  bool in_adapted(const float* value) const {
    return std::any_of(adapted_.begin(), adapted_.end(), [&](const Leaf& leaf) {
      const float* first = leaf.value.data_ptr<float>();
      return value >= first && value < first + leaf.value.numel();
    });
  }

  Status adapt() {
    return run_tasks(pool_, int64_t(updates_.size()), [&](int64_t i) {
      const at::NoGradGuard no_grad;
      const Update& u = updates_[size_t(i)];
      u.block(adapted_[u.base].value).copy_(u.block(bases_[u.base]->value)).addmm_(u.b, u.a, 1, scale_);
    });
  }

  double scale_;
  bool layer_wise_;
  std::vector<Leaf*> bases_;
  ThreadPool& pool_;
  std::deque<Leaf> adapted_;       // the bases' with W' for W; they do not move
  TorchModel student_;             // with W' for W
  std::vector<Update> updates_;
  std::unique_ptr<StageRunner> inner_;
};

}  // namespace

std::unique_ptr<StageRunner> make_stage_runner(const StageSpec& stage, StageContext context) {
  if (stage.compares_pairs()) return make_preference_stage(stage, std::move(context));
  return stage.layer_wise() ? make_align_stage(stage, std::move(context)) : make_logit_stage(stage, std::move(context));
}

std::unique_ptr<StageRunner> make_lora_stage(const StageSpec& stage, const std::vector<LoraTarget>& targets, const std::vector<Leaf*>& bases,
                                             StageContext context, uint64_t seed) {
  return std::make_unique<LoraStage>(stage, targets, bases, std::move(context), seed);
}

}  // namespace retort::train
