// Rounded rows made better: levels, steps and offsets are changed where that lowers the error of the outputs, which error feedback, going
// from left to right, cannot go back for.
//
// Layer: quantise. Not thread-safe; the work inside uses the pool.
#pragma once

#include <cstdint>
#include <vector>

#include "base/threads.h"
#include "quantise/error_feedback.h"
#include "quantise/rounded_rows.h"

namespace retort {

// Descends e H e^T with e = w - q, row by row, over the levels and grids of q: in turn for every 32 columns, with all others held. The
// error never rises.
class LevelSearch {
 public:
  // Of the block's columns; w [rows, columns]. They outlive this.
  LevelSearch(const FeedbackFactor::Block& block, const float* w, RoundedRows& rounded, ThreadPool& pool);

  void sweep();
  // e H e^T, summed over the rows.
  double error() const;

 private:
  void improve(int64_t row, int64_t at, int64_t count, float* changes);
  void spread(int64_t at, int64_t count, int64_t from, int64_t to);

  const std::vector<float>& h_;  // [n, n]
  int64_t first_, n_;
  const float* w_;
  RoundedRows& rounded_;
  ThreadPool& pool_;
  std::vector<float> error_, pull_;  // [rows, n]: e, and e H
  std::vector<float> changes_;       // [rows, columns in hand] of e
};

}  // namespace retort
