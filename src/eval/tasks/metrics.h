// From log-likelihoods to the numbers of a table, with the harness's formulas and errors.
//
// Layer: eval. Thread-safe: pure functions.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/threads.h"
#include "eval/continuation_scores.h"
#include "eval/tasks/task.h"

namespace retort::harness {

// One document's contribution to a metric. `weight`: words or bytes, where the metric is per word or per byte.
struct Sample {
  double value = 0;
  int64_t weight = 1;
};
// `scores`: one a request of the document.
Sample sample_metric(Metric::Value what, const Document& document, std::span<const ContinuationScore> scores);

// The error is absent where the harness has none: perplexities weighted by length, and single documents.
struct Estimate {
  double value = 0;
  std::optional<double> error;
};
// The mean of independent values and its standard error; none of fewer than two.
Estimate mean_with_error(std::span<const double> values);

constexpr int kBootstrapRounds = 100000;
Estimate aggregate(Metric::Mean mean, std::span<const Sample> samples, ThreadPool& pool, int bootstrap_rounds = kBootstrapRounds);

// Over all documents of several tasks: their means weighted by their sizes, the error pooled.
struct Part {
  Estimate estimate;
  int64_t size = 0;
};
Estimate pooled(std::span<const Part> parts);

}  // namespace retort::harness
