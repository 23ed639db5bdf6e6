#include "runtime/sequence.h"

#include <algorithm>

namespace retort {

StateLayout::StateLayout(const ModelConfig& config, CacheType cache_type) : cache_type_(cache_type) {
  for (const LayerPlan& layer : config.plan) {
    first_.emplace_back();
    for (const Part& part : layer.parts) add_part(part_states(config, part));
  }
}

StateLayout::StateLayout(const std::vector<StateSlot>& part, CacheType cache_type) : first_(1), cache_type_(cache_type) { add_part(part); }

void StateLayout::add_part(const std::vector<StateSlot>& slots) {
  first_.back().push_back(int(slots_.size()));
  for (const StateSlot& shape : slots) {
    Slot slot{shape, fixed_numbers_, -1};
    if (shape.kind == StateSlot::Kind::kCache && shape.rows < 0) {
      slot.cache = int(growing_.size());
      growing_.push_back(slot);
    } else {
      fixed_numbers_ += (shape.rows * shape.columns + 15) / 16 * 16;  // every slot starts a cache line
    }
    slots_.push_back(slot);
  }
}

Sequence::Sequence(std::shared_ptr<const StateLayout> layout) : layout_(std::move(layout)), fixed_(layout_->fixed_numbers()) {
  for (const auto& slot : layout_->growing()) caches_.emplace_back(slot.shape, layout_->cache_type());
}

int64_t Sequence::bytes() const {
  int64_t total = int64_t(fixed_.size() * sizeof(float));
  for (const auto& cache : caches_) total += cache.bytes();
  return total;
}

void Sequence::unshare() {
  for (auto& cache : caches_) cache.unshare();
}

bool Sequence::cut(int64_t position) {
  if (position == position_) return true;
  if (position > position_ || layout_->fixed_numbers() > 0) return false;
  for (auto& cache : caches_) cache.truncate(position);
  position_ = position;
  return true;
}

void Sequence::reset() {
  std::fill(fixed_.begin(), fixed_.end(), 0.0f);
  for (auto& cache : caches_) cache.truncate(0);
  position_ = 0;
}

}  // namespace retort
