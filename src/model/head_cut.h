// A part's tensor cut to some of its heads, as TensorSpec::heads says.
//
// Layer: model. Thread-safe: a pure function.
#pragma once

#include <span>
#include <vector>

#include "model/tensor_spec.h"

namespace retort {

// `values` has spec.shape and belongs to a part of `kv_heads` kv heads of `group` query heads each; `kept` are positions among those kv
// heads, rising. The result has the shape that the table of a part of those heads asks for; a tensor that all heads share is returned whole.
std::vector<float> cut_heads(const TensorSpec& spec, int kv_heads, int group, std::span<const float> values, std::span<const int> kept);

}  // namespace retort
