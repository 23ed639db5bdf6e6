#include "train/lora.h"

#include <algorithm>
#include <cmath>
#include <deque>

#include "base/hash.h"
#include "train/layer_pass.h"
#include "train/tasks.h"

namespace retort::train {
namespace {

// One target's update. Of several ranks each has a share of A and of B, as of all that trains.
struct Update {
  LoraTarget target;
  size_t base = 0;                 // which of the bases it is in
  int64_t offset = 0;              // its first number there
  Leaf a, b;

  int64_t count() const { return target.rows * target.columns; }
};

// A leaf's numbers as far as this rank has them.
at::Tensor numbers(const Leaf& leaf) { return leaf.share ? leaf.share->mine : leaf.value.detach().view({-1}); }

// Of an update's matrix, row after row, what this rank has: numbers [first, first + count), which are at `place` of the leaf's.
struct Piece {
  int64_t first = 0, place = 0, count = 0;
};

Piece piece_of(const Update& u, const Leaf& leaf) {
  if (!leaf.share) return {0, u.offset, u.count()};
  const Share& share = *leaf.share;
  const int64_t from = std::max(u.offset, share.first), to = std::min(u.offset + u.count(), share.first + share.owned);
  return to <= from ? Piece{} : Piece{from - u.offset, from - share.first, to - from};
}

class LoraStage : public StageRunner {
 public:
  LoraStage(const StageSpec& stage, const std::vector<LoraTarget>& targets, const std::vector<Leaf*>& bases, StageContext context, uint64_t seed)
      : rank_(stage.lora.r), scale_(stage.lora.alpha / stage.lora.r), layer_wise_(stage.layer_wise()), bases_(bases), context_(std::move(context)) {
    std::vector<at::Tensor> from, to;
    for (const Leaf* base : bases_) {
      Leaf& leaf = adapted_.emplace_back(*base);
      leaf.value = (base->share ? at::empty(base->share->sizes, at::kFloat) : base->value.detach().clone()).set_requires_grad(true);
      share(leaf);
      if (leaf.share) numbers(leaf).copy_(numbers(*base));
      from.push_back(base->value), to.push_back(leaf.value);
    }
    for (const LoraTarget& target : targets) add_update(stage, target, seed);
    student_ = with_tensors(context_.student, from, to);
    for (Leaf& leaf : adapted_) changed_.push_back(&leaf);
    std::vector<Leaf*> leaves = context_.leaves;
    leaves.insert(leaves.end(), changed_.begin(), changed_.end());
    inner_ = make_stage_runner(stage, StageContext{context_.teacher, student_, context_.pool, std::move(leaves), context_.reached, context_.open_second,
                                                   context_.shards, context_.tokens, context_.rows_at_once});
  }
  ~LoraStage() override {
    if (!context_.shards) return;
    for (const Leaf& leaf : adapted_) context_.shards->remove(leaf.value);
    for (const Update& u : updates_) {
      for (const Leaf* leaf : {&u.a, &u.b}) context_.shards->remove(leaf->value);
    }
  }

  std::vector<Parameter> parameters() override {
    std::vector<Parameter> out;
    for (Parameter& parameter : inner_->parameters()) {
      if (!in_adapted(parameter.value.data())) out.push_back(std::move(parameter));
    }
    for (const Update& u : updates_) {
      for (const auto& [name, leaf, count] : factors(u)) {
        const LeafMemory memory = memory_of(*leaf, 0, count);
        out.push_back({name, u.target.group, true, layer_wise_ ? std::max(bases_[u.base]->layer, 0) : 0, memory.value, memory.gradient});
      }
    }
    return out;
  }

  Result<StepResult> step(const Batch& batch, const StepContext& context) override {
    RETORT_RETURN_IF_ERROR(add_products(changed_));
    RETORT_TRY(auto result, inner_->step(batch, context));
    RETORT_RETURN_IF_ERROR(add_gradients());
    for (Leaf& leaf : adapted_) leaf.gradient.zero_();
    return result;
  }

  std::vector<Parameter> memory() override {
    std::vector<Parameter> out = inner_->memory();
    for (const Update& u : updates_) {
      for (const auto& [name, leaf, count] : factors(u)) out.push_back({name, u.target.group, false, 0, memory_of(*leaf, 0, count).value, {}});
    }
    return out;
  }

  Status switch_teacher(const std::string& hash) override { return inner_->switch_teacher(hash); }
  void use_cache(std::shared_ptr<LogitCache> cache) override { inner_->use_cache(std::move(cache)); }

  Status finish() override {
    RETORT_RETURN_IF_ERROR(inner_->finish());
    return add_products(bases_);
  }

 private:
  struct Factor {
    std::string name;
    const Leaf* leaf;
    int64_t count;
  };
  std::vector<Factor> factors(const Update& u) const {
    return {{u.target.name + ".lora_A", &u.a, rank_ * u.target.columns}, {u.target.name + ".lora_B", &u.b, u.target.rows * rank_}};
  }

  // From now on a rank has its share of a leaf; its gradient is zero.
  void share(Leaf& leaf) {
    leaf.share = context_.shards ? context_.shards->add(leaf.value) : nullptr;
    leaf.gradient = at::zeros_like(leaf.share ? leaf.share->mine : leaf.value);
  }

  void add_update(const StageSpec& stage, const LoraTarget& target, uint64_t seed) {
    for (size_t base = 0; base < bases_.size(); ++base) {
      for (const Leaf::Slice& slice : bases_[base]->slices) {
        if (slice.name != target.tensor) continue;
        auto random = at::detail::createCPUGenerator(fnv1a(cat(stage.name, "/", target.name), kFnvStart ^ seed));
        const double bound = 1 / std::sqrt(double(target.columns));
        Update u;
        u.target = target, u.base = base, u.offset = slice.offset + target.first_row * target.columns;
        u.a.value = at::empty({rank_, target.columns}, at::kFloat).uniform_(-bound, bound, random);
        u.b.value = at::zeros({target.rows, rank_}, at::kFloat);
        share(u.a), share(u.b);
        updates_.push_back(std::move(u));
      }
    }
  }

  bool in_adapted(const float* value) const {
    return std::any_of(adapted_.begin(), adapted_.end(), [&](const Leaf& leaf) {
      const at::Tensor own = numbers(leaf);
      return value >= own.data_ptr<float>() && value < own.data_ptr<float>() + own.numel();
    });
  }

  Result<Shards::Hold> hold_factors() const {
    std::vector<at::Tensor> all;
    for (const Update& u : updates_) all.insert(all.end(), {u.a.value, u.b.value});
    return gather(context_, all);
  }

  // `into`, which are the bases or stand in their places, become W', of what this rank has of them.
  Status add_products(const std::vector<Leaf*>& into) const {
    RETORT_TRY(const Shards::Hold hold, hold_factors());
    return run_tasks(context_.pool, int64_t(updates_.size()), [&](int64_t i) {
      const at::NoGradGuard no_grad;
      const Update& u = updates_[size_t(i)];
      const Leaf &base = *bases_[u.base], &leaf = *into[u.base];
      const Piece own = piece_of(u, base);
      if (own.count == 0) return;
      // The rows that it has something of.
      const int64_t columns = u.target.columns, row = own.first / columns, rows = (own.first + own.count + columns - 1) / columns - row;
      const at::Tensor product = u.b.value.narrow(0, row, rows).mm(u.a.value).mul_(scale_).view({-1}).narrow(0, own.first - row * columns, own.count);
      const at::Tensor mine = numbers(leaf).narrow(0, own.place, own.count);
      if (&leaf != &base) mine.copy_(numbers(base).narrow(0, own.place, own.count));
      mine.add_(product);
    });
  }

  // Of the gradient by W', which is a sum over the ranks, each has a piece; what A and B get of it is linear in it, and so the sum over the pieces.
  Status add_gradients() {
    RETORT_TRY(const Shards::Hold hold, hold_factors());
    std::vector<at::Tensor> of_a(updates_.size()), of_b(updates_.size());
    RETORT_RETURN_IF_ERROR(run_tasks(context_.pool, int64_t(updates_.size()), [&](int64_t i) {
      const at::NoGradGuard no_grad;
      const Update& u = updates_[size_t(i)];
      const Leaf& leaf = adapted_[u.base];
      const Piece own = piece_of(u, leaf);
      if (own.count == 0) return;
      at::Tensor gradient = leaf.gradient.view({-1}).narrow(0, own.place, own.count);
      if (own.count < u.count()) {
        const at::Tensor whole = at::zeros({u.count()}, at::kFloat);
        whole.narrow(0, own.first, own.count).copy_(gradient);
        gradient = whole;
      }
      gradient = gradient.view({u.target.rows, u.target.columns});
      of_a[size_t(i)] = u.b.value.t().mm(gradient).mul_(scale_);
      of_b[size_t(i)] = gradient.mm(u.a.value.t()).mul_(scale_);
    }));
    for (size_t i = 0; i < updates_.size(); ++i) {
      RETORT_RETURN_IF_ERROR(add_gradient(context_, updates_[i].a, {&of_a[i], 1}));
      RETORT_RETURN_IF_ERROR(add_gradient(context_, updates_[i].b, {&of_b[i], 1}));
    }
    return {};
  }

  int64_t rank_;                   // r
  double scale_;
  bool layer_wise_;
  std::vector<Leaf*> bases_;
  StageContext context_;           // of the student without LoRA
  std::deque<Leaf> adapted_;       // the bases' with W' for W; they do not move
  std::vector<Leaf*> changed_;     // the same
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
