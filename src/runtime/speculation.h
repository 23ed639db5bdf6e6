// Multi-step speculative decoding: a draft guesses several tokens, one pass of the model judges them all.
//
// Layer: runtime. Not thread-safe; one Speculation per session.
//
// The text is what plain decoding would make: with temperature 0 token for token (a judging pass has the bits of decoding steps,
// trial.h), otherwise in distribution. A guess d, drawn from q where the sampler draws from p, is taken with probability
// min(1, p(d) / q(d)); a refused one is replaced by a draw from max(p - q, 0), and the rest are dropped. So
//   P(x) = min(p, q)(x) + (1 - sum min(p, q)) max(p - q, 0)(x) / sum max(p - q, 0) = p(x).
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "runtime/draft.h"
#include "runtime/session.h"

namespace retort {

struct SpeculationStats {
  int64_t steps = 0;     // passes of the model, plain ones included
  int64_t tokens = 0;    // that they made
  int64_t guessed = 0;
  int64_t judged = 0;    // up to the first refusal
  int64_t accepted = 0;
  double tokens_per_step() const { return steps > 0 ? double(tokens) / double(steps) : 0; }
  double accepted_share() const { return guessed > 0 ? double(accepted) / double(guessed) : 0; }
  // How often a guess is right when those before it were: the alpha of expected_tokens().
  double alpha() const { return judged > 0 ? double(accepted) / double(judged) : 0; }
};

// Tokens per step when each of `guesses` is accepted with probability `alpha`: 1 + alpha + ... + alpha^guesses.
double expected_tokens(double alpha, int64_t guesses);

class Speculation {
 public:
  // `most` guesses a step.
  Speculation(std::unique_ptr<Draft> draft, int64_t most) : draft_(std::move(draft)), most_(most) {}

  // Makes 1 to most + 1 tokens, at most `room` (>= 1), and gives each to `take`; after one that returns false the rest are dropped.
  // The session is left as plain decoding leaves it: the last token is pending. Whatever is pending before is consumed.
  Status step(Session& session, Sampler& sampler, int64_t room, const std::function<bool(int token)>& take);

  const SpeculationStats& stats() const { return stats_; }

 private:
  Status plain_step(Session& session, Sampler& sampler, const std::function<bool(int)>& take);
  void judge(Sampler& sampler, std::span<const int> history);
  int judge_one(const Guess& guess, std::span<const Candidate> p, Sampler& sampler);
  int draw_rest(std::span<const Candidate> p, double rest, Sampler& sampler);

  std::unique_ptr<Draft> draft_;
  int64_t most_;
  SpeculationStats stats_;
  Trial trial_;
  std::vector<Guess> guesses_;
  std::vector<int> tokens_, history_, made_;
  std::vector<float> logits_;  // [1 + guesses, vocabulary]
  std::vector<double> q_;      // [vocabulary], zeros between calls
};

}  // namespace retort
