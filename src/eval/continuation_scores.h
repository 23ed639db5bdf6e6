// How likely given continuations of given contexts are: the measurement under every multiple-choice benchmark.
//
// Layer: eval. Not thread-safe: one engine, one call.
//
// What the contexts share is read once: the inputs form a prefix tree, a node starts from a copy of its parent's state, and every pass
// takes rows of as many nodes as are ready, without padding. Deeper nodes go first, so that few states live at a time.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "runtime/model.h"

namespace retort {

// Scored: ids, after context. Both have at least one id; the last one is never read by the model.
struct Continuation {
  std::vector<int> context, ids;
};

struct ContinuationScore {
  double log_likelihood = 0;  // sum of ln p(id | all before it)
  bool greedy = true;         // every id was the most likely one; of equal ones the first
  int64_t greedy_ids = 0;     // how many were
};

struct ContinuationOptions {
  int64_t pass_rows = 512;
  // A clone of a state is made only while the live ones take less than this.
  int64_t state_bytes = int64_t{1} << 30;
};

struct ContinuationWork {
  int64_t rows_read = 0;    // by the model
  int64_t rows_asked = 0;   // had every input been read by itself
};

// Told after every pass how many continuations are done.
using ContinuationProgress = std::function<void(int64_t done)>;

Result<std::vector<ContinuationScore>> score_continuations(Engine& engine, std::span<const Continuation> continuations,
                                                           const ContinuationOptions& options, ContinuationWork& work,
                                                           const ContinuationProgress& progress = {});

}  // namespace retort
