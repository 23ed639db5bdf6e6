#include "eval/position_perplexity.h"

#include <cmath>

#include "eval/tasks/metrics.h"

namespace retort {

double PositionBin::perplexity() const { return std::exp(nll); }

std::vector<PositionBin> position_bins(int64_t context) {
  std::vector<PositionBin> out;
  for (int64_t first = 1; first < context; first *= 2) out.push_back({first, std::min(2 * first, context)});
  if (out.size() > 1 && out.back().end - out.back().first < out.back().first / 2) {
    out[out.size() - 2].end = context;
    out.pop_back();
  }
  return out;
}

Result<std::vector<PositionBin>> position_perplexity(Engine& engine, std::span<const int> tokens, int64_t context, int64_t batch_rows,
                                                     const PerplexityProgress& progress) {
  const int64_t windows = int64_t(tokens.size()) / context;
  if (context < 2 || windows < 1) return invalid("perplexity by position: the text has ", tokens.size(), " tokens; a window takes ", context);
  std::vector<PositionBin> bins = position_bins(context);
  std::vector<std::vector<double>> sums(bins.size(), std::vector<double>(size_t(windows), 0.0));
  const auto take = [&](int64_t window, int64_t position, std::span<const float> logits) {
    const int64_t at = position + 1;  // where the predicted token stands
    if (at >= context) return;
    size_t bin = 0;
    while (at >= bins[bin].end) ++bin;
    sums[bin][size_t(window)] += negative_log_likelihood(logits, tokens[size_t(window * context + at)]);
  };
  // Nothing is scored there: the sink does it, by position.
  const auto read = perplexity(engine, tokens.first(size_t(windows * context)), {context, batch_rows, context}, progress, take);
  if (!read.ok()) return read.error();
  for (size_t b = 0; b < bins.size(); ++b) {
    const double width = double(bins[b].end - bins[b].first);
    for (double& sum : sums[b]) sum /= width;
    const harness::Estimate mean = harness::mean_with_error(sums[b]);
    bins[b].nll = mean.value, bins[b].error = mean.error;
    bins[b].scored = int64_t(width) * windows;
  }
  return bins;
}

}  // namespace retort
