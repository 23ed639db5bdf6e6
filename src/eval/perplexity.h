// Perplexity as anyone can check it: the whole text's tokens in consecutive windows of N, fresh state per window, positions
// 2..N of each scored, a tail shorter than 2 dropped; exp of the mean negative log-likelihood. The softmax is over all rows of the head, those
// that pad the vocabulary too: as transformers, lm-evaluation-harness and llama.cpp have it, so that numbers may stand side by side.
//
// Layer: eval. Not thread-safe: one engine, one call.
#pragma once

#include <functional>
#include <span>

#include "runtime/model.h"

namespace retort {

struct PerplexityOptions {
  int64_t context = 512;
  int64_t batch_rows = 512;   // rows of a forward pass: several short windows at once, or a part of a long one
  // Positions below this are read, not scored (0: all but the first are).
  int64_t score_from = 0;
};

struct PerplexityResult {
  int64_t tokens = 0, scored = 0, windows = 0;
  double nll = 0;             // sum of negative log-likelihoods, natural logarithm
  double seconds = 0;
  double mean() const { return scored ? nll / double(scored) : 0; }
  double perplexity() const;
};

// Told after every pass: windows done and the running result.
using PerplexityProgress = std::function<void(int64_t windows_done, const PerplexityResult&)>;
// Every logits row, in the order of the tokens of a window. Windows of a batch are interleaved by pass.
using LogitsRowSink = std::function<void(int64_t window, int64_t position, std::span<const float> logits)>;

Result<PerplexityResult> perplexity(Engine& engine, std::span<const int> tokens, const PerplexityOptions& options,
                                    const PerplexityProgress& progress = {}, const LogitsRowSink& sink = {});

// ln(sum of exp(logits)), and the largest logit.
struct LogNormalizer {
  double value;
  float largest;
};
LogNormalizer log_normalizer(std::span<const float> logits);
// -log softmax(logits)[target]
double negative_log_likelihood(std::span<const float> logits, int target);

}  // namespace retort
