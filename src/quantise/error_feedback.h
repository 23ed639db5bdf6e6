// Rounds a matrix so that what it computes changes least, rather than what it is: column by column, the error of one is made up for by
// the columns that are still to be rounded (GPTQ: Frantar et al., 2022; here with a grid per block of 32 columns).
//
// Layer: quantise.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "quantise/input_moments.h"

namespace retort {

// U, upper triangular, with (X^T X + damping)^-1 = U^T U for every block of the moments.
class FeedbackFactor {
 public:
  // An error when the moments are not finite.
  static Result<FeedbackFactor> of(const InputMoments& moments, ThreadPool& pool);

  struct Block {
    int first, count;
    std::vector<float> upper;  // [count, count]
  };
  const std::vector<Block>& blocks() const { return blocks_; }

 private:
  std::vector<Block> blocks_;
};

// Blocks of `type` for w [rows, columns], row by row. Minimises the sum over the rows of (w - q) X^T X (w - q)^T, greedily. columns is a
// multiple of 32 and those of the factor.
std::vector<std::byte> round_with_feedback(TensorType type, int64_t rows, int64_t columns, const float* w, const FeedbackFactor& factor,
                                           ThreadPool& pool);

// The same without knowing the inputs: every weight counts alike.
std::vector<std::byte> round_to_nearest(TensorType type, int64_t rows, int64_t columns, const float* w, ThreadPool& pool);

}  // namespace retort
