// Recall over a distance: passages that stand twice in a context, and the perplexity of the second copy. What remembers the
// first has hardly any surprise there; what cannot scores as if it read it for the first time.
//
// Layer: eval. Not thread-safe: one engine, one call.
#pragma once

#include "eval/perplexity.h"

namespace retort {

struct CopyRecallOptions {
  int64_t passages = 8;    // spread evenly over the text
  int64_t length = 192;    // tokens of a passage, and so the distance: beyond every window
  int64_t batch_rows = 512;
};

// Each passage twice, one window of 2 * length tokens after another.
std::vector<int> repeated_passages(std::span<const int> tokens, const CopyRecallOptions& options);

Result<PerplexityResult> copy_recall(Engine& engine, std::span<const int> tokens, const CopyRecallOptions& options,
                                     const PerplexityProgress& progress = {});

}  // namespace retort
