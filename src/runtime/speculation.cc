#include "runtime/speculation.h"

#include <algorithm>

namespace retort {

double expected_tokens(double alpha, int64_t guesses) {
  double sum = 1, power = 1;
  for (int64_t i = 0; i < guesses; ++i) sum += power *= alpha;
  return sum;
}

Status Speculation::step(Session& session, Sampler& sampler, int64_t room, const std::function<bool(int)>& take) {
  guesses_.clear();
  const int64_t most = std::min(most_, room - 1);
  if (session.pending() == 1 && most > 0) RETORT_RETURN_IF_ERROR(draft_->propose(session.tokens(), most, guesses_));
  if (guesses_.empty()) return plain_step(session, sampler, take);
  tokens_.clear();
  for (const Guess& guess : guesses_) tokens_.push_back(guess.token);
  RETORT_RETURN_IF_ERROR(session.consume_on_trial(tokens_, trial_, logits_));
  judge(sampler, session.tokens());
  for (size_t i = 0; i < made_.size(); ++i) {
    if (!take(made_[i])) made_.resize(i + 1);
  }
  session.keep(trial_, made_);
  ++stats_.steps;
  stats_.tokens += int64_t(made_.size());
  return {};
}

Status Speculation::plain_step(Session& session, Sampler& sampler, const std::function<bool(int)>& take) {
  if (session.pending() > 0) RETORT_RETURN_IF_ERROR(session.consume());
  const int token = sampler.sample(session.logits(), session.tokens());
  session.commit(token);
  take(token);
  ++stats_.steps;
  ++stats_.tokens;
  return {};
}

// made_: the accepted guesses and one token of the model's own.
void Speculation::judge(Sampler& sampler, std::span<const int> history) {
  history_.assign(history.begin(), history.end());
  made_.clear();
  const size_t vocabulary = logits_.size() / (guesses_.size() + 1);
  q_.resize(vocabulary);
  stats_.guessed += int64_t(guesses_.size());
  for (size_t t = 0; t <= guesses_.size(); ++t) {
    const auto p = sampler.distribution(std::span(logits_).subspan(t * vocabulary, vocabulary), history_);
    const int token = t < guesses_.size() ? judge_one(guesses_[t], p, sampler) : sampler.draw(p);
    sampler.drew(token);
    made_.push_back(token);
    history_.push_back(token);
    if (t == guesses_.size()) return;
    ++stats_.judged;
    if (token != guesses_[t].token) return;
    ++stats_.accepted;
  }
}

// The guess, or what stands in its place: never the guess, for where it was refused q is at least p.
int Speculation::judge_one(const Guess& guess, std::span<const Candidate> p, Sampler& sampler) {
  if (guess.drawn_from.empty()) q_[size_t(guess.token)] = 1;
  for (const Candidate& c : guess.drawn_from) q_[size_t(c.token)] = c.probability;
  double of_guess = 0, rest = 0;
  for (const Candidate& c : p) {
    if (c.token == guess.token) of_guess = c.probability;
    rest += std::max(0.0, c.probability - q_[size_t(c.token)]);
  }
  const bool accepted = sampler.uniform() * q_[size_t(guess.token)] < of_guess;
  const int token = accepted ? guess.token : rest > 0 ? draw_rest(p, rest, sampler) : sampler.draw(p);  // 0: p is q but for rounding
  q_[size_t(guess.token)] = 0;
  for (const Candidate& c : guess.drawn_from) q_[size_t(c.token)] = 0;
  return token;
}

// From max(p - q, 0), whose sum is `rest`.
int Speculation::draw_rest(std::span<const Candidate> p, double rest, Sampler& sampler) {
  double left = sampler.uniform() * rest;
  int token = p.front().token;
  for (const Candidate& c : p) {
    const double share = std::max(0.0, c.probability - q_[size_t(c.token)]);
    if (share == 0) continue;
    token = c.token;
    if ((left -= share) < 0) break;
  }
  return token;
}

}  // namespace retort
