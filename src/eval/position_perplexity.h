// Perplexity by position: how well a token is predicted that has so many before it. Attention goes on gaining with the context; a
// memory that silts up loses.
//
// Layer: eval. Not thread-safe: one engine, one call.
#pragma once

#include <optional>
#include <vector>

#include "eval/perplexity.h"

namespace retort {

// Predictions of tokens that stand at [first, end) of their windows, counted from 0: the token at 1 has one token before it.
struct PositionBin {
  int64_t first = 0, end = 0, scored = 0;
  double nll = 0;                // mean over windows of the bin's mean, natural logarithm
  std::optional<double> error;   // of nll, over windows; none of a single window
  double perplexity() const;
};

// Ends of bins that double: 1, 2, 4, ... up to `context`; a last bin shorter than half of its width joins the one before.
std::vector<PositionBin> position_bins(int64_t context);

// Whole windows only: every position is measured on the same texts.
Result<std::vector<PositionBin>> position_perplexity(Engine& engine, std::span<const int> tokens, int64_t context, int64_t batch_rows,
                                                     const PerplexityProgress& progress = {});

}  // namespace retort
