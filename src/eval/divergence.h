// How far a model's predictions are from another's on a text, token by token: what quantising or distilling costs beyond perplexity.
//
// Layer: eval. Not thread-safe: two engines, one call.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "runtime/model.h"
#include "runtime/sequence.h"

namespace retort {

struct Divergence {
  int64_t tokens = 0, windows = 0;     // positions scored: all but the last of a window
  double nll_base = 0, nll = 0;        // sums of negative log-likelihoods
  double kl_mean = 0, kl_largest = 0;  // KL(base || model), natural logarithm
  double kl_999 = 0;                   // its 99.9th percentile
  int64_t same_top = 0;                // positions where the likeliest token is the same
  double perplexity_base() const;
  double perplexity() const;
  double same_top_share() const { return tokens ? double(same_top) / double(tokens) : 0; }
};

// Windows of `window` tokens, each from an empty state, as eval/perplexity.h has them. `progress` is told tokens done; false stops
// (kInterrupted). Both models have the vocabulary of `tokens`.
Result<Divergence> divergence(Engine& base, Engine& model, std::span<const int> tokens, int64_t window,
                              const std::function<bool(int64_t)>& progress = {});

// One model's predictions on a text, for many to be compared with it: it reads the text once where that fits into `most_bytes` (4 bytes a
// token and word of the vocabulary), and again for every comparison where it does not.
class DivergenceBase {
 public:
  // The engine and the tokens outlive it.
  DivergenceBase(Engine& engine, std::span<const int> tokens, int64_t window, int64_t most_bytes = int64_t(1) << 30);

  Result<Divergence> compare(Engine& model, const std::function<bool(int64_t)>& progress = {});

 private:
  // Logits of tokens [at, at + count), which begin a window or go on where the last call ended. [count, vocabulary]
  Result<std::span<const float>> rows(int64_t at, int64_t count, bool begins);

  Engine& engine_;
  std::span<const int> tokens_;
  int64_t window_;
  bool keeps_;
  Sequence state_;
  std::vector<float> now_;                       // of this call
  std::vector<std::vector<float>> kept_;         // by call, in the order of the text
  size_t read_ = 0;                              // calls since the text's beginning
};

}  // namespace retort
