// What the matrices of a model are applied to, over a text: second moments X^T X of their inputs, which say how much an error in a
// weight disturbs the output.
//
// Layer: quantise. Not thread-safe; the work inside uses the engine's pool.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/model.h"

namespace retort {

// Columns [first, first + count) of a matrix's input. Wide inputs are cut into blocks, between which moments are not kept.
struct MomentBlock {
  static constexpr int kWidest = 4096;
  int first = 0, count = 0;
  std::vector<float> sum;  // [count, count], the upper triangle
};

struct InputMoments {
  std::vector<MomentBlock> blocks;
  int64_t rows = 0;
};

class MomentsByTensor {
 public:
  // Of a tensor's matrices: one, or one per head. Empty: the tensor was not seen, or is no matrix that may be rounded.
  std::span<const std::shared_ptr<InputMoments>> of(const std::string& tensor) const;
  int64_t tokens = 0;

 private:
  friend class MomentCollector;
  std::map<std::string, std::vector<std::shared_ptr<InputMoments>>> by_tensor_;
};

// Runs the tokens through the model in windows of `window`, each from an empty state. `progress` is told tokens done; false stops
// (kInterrupted).
Result<MomentsByTensor> measure_inputs(Engine& engine, std::span<const int> tokens, int64_t window,
                                       const std::function<bool(int64_t)>& progress = {});

}  // namespace retort
