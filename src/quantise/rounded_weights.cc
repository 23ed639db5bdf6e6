#include "quantise/rounded_weights.h"

namespace retort {

void RoundedWeights::set(const TensorView& original, TensorType type, std::vector<std::byte> blocks) {
  Rounded& to = rounded_[original.name];
  to.blocks = std::move(blocks);
  to.view = {original.name, type, original.shape, to.blocks.data()};
}

const TensorView* RoundedWeights::rounded(const std::string& name) const {
  const auto found = rounded_.find(name);
  return found == rounded_.end() ? nullptr : &found->second.view;
}

Result<TensorView> RoundedWeights::tensor(const std::string& name) const {
  if (const TensorView* found = rounded(name)) return *found;
  return original_->tensor(name);
}

}  // namespace retort
