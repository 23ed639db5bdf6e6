#include "runtime/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace retort {
namespace {

bool more_likely(const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.token < b.token; }

}  // namespace

Status validate(const SamplingOptions& o) {
  if (!(o.temperature >= 0) || !std::isfinite(o.temperature)) return invalid("temperature is ", o.temperature, "; expected 0 or more");
  if (o.top_k < 0) return invalid("top_k is ", o.top_k, "; expected 0 (off) or more");
  if (!(o.top_p >= 0 && o.top_p <= 1)) return invalid("top_p is ", o.top_p, "; expected 0 to 1");
  if (!(o.min_p >= 0 && o.min_p <= 1)) return invalid("min_p is ", o.min_p, "; expected 0 to 1");
  if (!(o.repeat_penalty > 0) || !std::isfinite(o.repeat_penalty)) {
    return invalid("repeat_penalty is ", o.repeat_penalty, "; expected above 0");
  }
  if (o.repeat_last_n < 0) return invalid("repeat_last_n is ", o.repeat_last_n, "; expected 0 (off) or more");
  if (!std::isfinite(o.presence_penalty)) return invalid("presence_penalty is ", o.presence_penalty, "; expected a finite number");
  if (!std::isfinite(o.frequency_penalty)) return invalid("frequency_penalty is ", o.frequency_penalty, "; expected a finite number");
  for (const auto& [token, bias] : o.logit_bias) {
    if (!std::isfinite(bias)) return invalid("logit_bias of token ", token, " is ", bias, "; expected a finite number");
  }
  return {};
}

void Sampler::penalise(std::span<const float> logits, std::span<const int> history) {
  logits_.assign(logits.begin(), logits.end());
  if (options_.repeat_penalty != 1) {
    const size_t count = std::min(history.size(), size_t(options_.repeat_last_n));
    const float penalty = float(options_.repeat_penalty);
    for (const int token : history.last(count)) {
      if (token < 0 || size_t(token) >= logits.size()) continue;
      const float raw = logits[token];  // from the raw value: a token seen twice is penalised once
      logits_[token] = raw > 0 ? raw / penalty : raw * penalty;
    }
  }
  for (const auto& [token, bias] : options_.logit_bias) {
    if (token >= 0 && size_t(token) < logits_.size()) logits_[size_t(token)] += bias;
  }
  for (const auto& [token, times] : drawn_) {
    logits_[size_t(token)] -= float(options_.presence_penalty + times * options_.frequency_penalty);
  }
  for (const int token : options_.never) {
    if (token >= 0 && size_t(token) < logits_.size()) logits_[size_t(token)] = std::numeric_limits<float>::quiet_NaN();
  }
}

// A heap of the `count` likeliest seen so far, the least likely of them in front: most logits cost one comparison.
void Sampler::collect_most_likely(size_t count) {
  candidates_.clear();
  for (size_t i = 0; i < logits_.size(); ++i) {
    const float logit = logits_[i];
    if (std::isnan(logit)) continue;  // no number: not to be drawn
    if (candidates_.size() == count) {
      if (logit <= candidates_.front().logit) continue;  // of equals the first stays
      std::pop_heap(candidates_.begin(), candidates_.end(), more_likely);
      candidates_.pop_back();
    }
    candidates_.push_back({int(i), logit, 0});
    std::push_heap(candidates_.begin(), candidates_.end(), more_likely);
  }
  if (candidates_.empty()) candidates_.push_back({0, 0, 0});  // nothing but NaN: a broken model must not crash the program
  std::sort_heap(candidates_.begin(), candidates_.end(), more_likely);
}

void Sampler::normalise(double temperature) {
  double sum = 0;
  const double most = candidates_.front().logit;
  for (Candidate& c : candidates_) sum += c.probability = std::exp((c.logit - most) / temperature);
  for (Candidate& c : candidates_) c.probability /= sum;
}

void Sampler::keep_top_p() {
  double mass = 0;
  size_t kept = 0;
  while (kept < candidates_.size() && mass < options_.top_p) mass += candidates_[kept++].probability;
  candidates_.resize(std::max<size_t>(kept, 1));
}

void Sampler::keep_min_p() {
  const double least = options_.min_p * candidates_.front().probability;
  size_t kept = 1;
  while (kept < candidates_.size() && candidates_[kept].probability >= least) ++kept;
  candidates_.resize(kept);
}

std::span<const Candidate> Sampler::distribution(std::span<const float> logits, std::span<const int> history) {
  penalise(logits, history);
  const bool greedy = options_.temperature == 0;
  const size_t all = logits_.size();
  collect_most_likely(greedy ? 1 : options_.top_k == 0 ? all : std::min(size_t(options_.top_k), all));
  normalise(1.0);
  if (options_.top_p < 1) {
    keep_top_p();
    normalise(1.0);
  }
  if (options_.min_p > 0) keep_min_p();
  normalise(greedy ? 1.0 : options_.temperature);
  return candidates_;
}

int Sampler::sample(std::span<const float> logits, std::span<const int> history) {
  const int token = draw(distribution(logits, history));
  drew(token);
  return token;
}

void Sampler::drew(int token) {
  if ((options_.presence_penalty != 0 || options_.frequency_penalty != 0) && size_t(token) < logits_.size()) ++drawn_[token];
}

int Sampler::draw(std::span<const Candidate> candidates) {
  if (candidates.size() == 1) return candidates.front().token;
  double left = random_.uniform();
  for (const Candidate& c : candidates) {
    left -= c.probability;
    if (left < 0) return c.token;
  }
  return candidates.back().token;
}

}  // namespace retort
