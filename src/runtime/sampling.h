// From logits to a token: biases, penalties, top-k, top-p, min-p, temperature, in llama.cpp's order and with its defaults.
//
// Layer: runtime. A Sampler belongs to one sequence. The same seed, logits and history give the same tokens.
#pragma once

#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/error.h"
#include "runtime/random.h"

namespace retort {

struct SamplingOptions {
  double temperature = 0.8;   // 0: the likeliest token, the first of equals
  int top_k = 40;             // 0: off
  double top_p = 0.95;        // 1: off
  double min_p = 0.05;        // 0: off
  double repeat_penalty = 1;  // 1: off
  int repeat_last_n = 64;     // 0: off
  // Subtracted from the logit of a token that this sampler has drawn before: once, and once for every time. 0: off
  double presence_penalty = 0, frequency_penalty = 0;
  std::vector<std::pair<int, float>> logit_bias;  // token, what is added to its logit; tokens outside the vocabulary do nothing
  std::vector<int> never;     // not drawn, whatever their logits: ids that no token has (Tokenizer::ids_without_token)
};
Status validate(const SamplingOptions& options);

struct Candidate {
  int token;
  float logit;
  double probability;
};

class Sampler {
 public:
  Sampler(const SamplingOptions& options, uint64_t seed) : options_(options), random_(seed) {}

  // `history`: the sequence's tokens so far, for the penalty.
  int sample(std::span<const float> logits, std::span<const int> history);
  // What sample() draws from, likeliest first; probabilities sum to 1. Valid until the next call.
  std::span<const Candidate> distribution(std::span<const float> logits, std::span<const int> history);

  // One of a distribution, and a number in [0, 1): from the sampler's own random numbers.
  int draw(std::span<const Candidate> candidates);
  double uniform() { return random_.uniform(); }
  // A token of the text that sample() did not choose: the penalties for what was drawn count it too.
  void drew(int token);

  const SamplingOptions& options() const { return options_; }

 private:
  void penalise(std::span<const float> logits, std::span<const int> history);
  void collect_most_likely(size_t count);
  void normalise(double temperature);
  void keep_top_p();
  void keep_min_p();

  SamplingOptions options_;
  Random random_;
  std::vector<float> logits_;
  std::vector<Candidate> candidates_;
  std::unordered_map<int, int> drawn_;  // how often; kept only when a penalty asks for it
};

}  // namespace retort
