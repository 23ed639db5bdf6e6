// Rounds a matrix so that what it computes changes least, rather than what it is: column by column, the error of one is made up for by
// the columns that are still to be rounded (GPTQ: Frantar et al., 2022; here with a grid per block of 32 columns).
//
// Layer: quantise.
#pragma once

#include <cstddef>
#include <vector>

#include "base/error.h"
#include "base/threads.h"
#include "quantise/input_moments.h"
#include "quantise/rounded_rows.h"

namespace retort {

// For every block of the moments H = X^T X + damping, and U, upper triangular, with H^-1 = U^T U.
class FeedbackFactor {
 public:
  // An error when the moments are not finite.
  static Result<FeedbackFactor> of(const InputMoments& moments, ThreadPool& pool);

  struct Block {
    int first, count;
    std::vector<float> damped, upper;  // H and U, [count, count]
  };
  const std::vector<Block>& blocks() const { return blocks_; }

 private:
  std::vector<Block> blocks_;
};

// Minimises the sum over the rows of (w - q) H (w - q)^T for w [rows, columns], greedily. columns is a multiple of 32 and those of the factor.
RoundedRows round_by_feedback(TensorType type, int64_t rows, int64_t columns, const float* w, const FeedbackFactor& factor, ThreadPool& pool);

// The same without knowing the inputs: every weight counts alike.
RoundedRows round_to_nearest(TensorType type, int64_t rows, int64_t columns, const float* w, ThreadPool& pool);

}  // namespace retort
