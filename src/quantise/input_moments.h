// What the matrices of a model are applied to, over a text: second moments X^T X of their inputs, which say how much an error in a
// weight disturbs the output.
//
// Layer: quantise. Not thread-safe; the work inside uses the pool.
#pragma once

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
  std::vector<float> sum;  // [count, count], symmetric
};

struct InputMoments {
  std::vector<MomentBlock> blocks;
  int64_t rows = 0;
};

// Of a tensor's matrices: one, or one per head. Tensors that are applied to the same share theirs.
using TensorMoments = std::vector<std::shared_ptr<InputMoments>>;

// Watches an engine's passes.
class MomentCollector {
 public:
  explicit MomentCollector(ThreadPool& pool) : pool_(pool) {}

  void see(std::span<const WeightRef> weights, const RuntimeOps::Tensor& x, int64_t rows);
  // By the tensors' names. Those that are missing were not seen, or are no matrices that may be rounded.
  std::map<std::string, TensorMoments> take() { return std::move(found_); }

 private:
  ThreadPool& pool_;
  std::map<std::string, TensorMoments> found_;
};

}  // namespace retort
