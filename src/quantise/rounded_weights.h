// A model's weights with some of them rounded.
//
// Layer: quantise. Not thread-safe while tensors are set.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "io/weights.h"
#include "model/tensor_spec.h"

namespace retort {

// What a tensor becomes where most matrices become `matrices`. Those per head, [heads, out, in], are feature maps: an exponential or a
// softmax comes next, to which an error of 4 bits is a factor. They are small, and keep 8 bits.
inline TensorType file_type(const TensorSpec& spec, TensorType matrices) { return spec.shape.size() == 3 ? TensorType::kQ8_0 : matrices; }

class RoundedWeights : public WeightStore {
 public:
  explicit RoundedWeights(std::shared_ptr<const WeightStore> original) : original_(std::move(original)) {}

  // Views of what the tensor was before are void.
  void set(const TensorView& original, TensorType type, std::vector<std::byte> blocks);
  // Null: as in the original.
  const TensorView* rounded(const std::string& name) const;

  bool has(const std::string& name) const override { return original_->has(name); }
  Result<TensorView> tensor(const std::string& name) const override;
  std::vector<std::string> names() const override { return original_->names(); }
  const std::string& path() const override { return original_->path(); }

 private:
  struct Rounded {
    std::vector<std::byte> blocks;
    TensorView view;
  };
  std::shared_ptr<const WeightStore> original_;
  std::map<std::string, Rounded> rounded_;
};

}  // namespace retort
