// What a model makes of a probe: how often the answer is what it would have written itself, and how likely it finds the answer.
//
// Layer: eval. Not thread-safe: one engine, one call.
#pragma once

#include <optional>

#include "eval/probes/probe.h"
#include "eval/tasks/metrics.h"

namespace retort::probes {

// Means over examples, each the mean over its questions: questions about one context are not independent, so the errors are those of
// examples.
struct Score {
  harness::Estimate accuracy;        // greedy decoding writes exactly the answer's ids
  harness::Estimate token_accuracy;  // share of the answer's ids that are the likeliest after the right ones before them
  harness::Estimate log_likelihood;  // of the answer, per id, natural logarithm
  int64_t questions = 0, answer_tokens = 0;
  ContinuationWork work;
};

Result<Score> score(Engine& engine, std::span<const Example> examples, const ContinuationOptions& options);

}  // namespace retort::probes
