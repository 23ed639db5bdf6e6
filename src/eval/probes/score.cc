#include "eval/probes/score.h"

#include <cmath>

namespace retort::probes {

harness::Estimate mean_of(std::span<const double> values) {
  const double count = double(values.size());
  double sum = 0, squares = 0;
  for (const double v : values) sum += v;
  harness::Estimate out{values.empty() ? 0 : sum / count, {}};
  if (values.size() < 2) return out;
  for (const double v : values) squares += (v - out.value) * (v - out.value);
  out.error = std::sqrt(squares / (count - 1) / count);
  return out;
}

Result<Score> score(Engine& engine, std::span<const Example> examples, const ContinuationOptions& options) {
  std::vector<Continuation> all;
  for (const Example& example : examples) all.insert(all.end(), example.questions.begin(), example.questions.end());
  Score out;
  RETORT_TRY(const auto scores, score_continuations(engine, all, options, out.work));
  std::vector<double> exact, tokens, likelihood;
  size_t next = 0;
  for (const Example& example : examples) {
    double greedy = 0, greedy_ids = 0, sum = 0, ids = 0;
    for (size_t q = 0; q < example.questions.size(); ++q, ++next) {
      greedy += scores[next].greedy;
      greedy_ids += double(scores[next].greedy_ids);
      sum += scores[next].log_likelihood;
      ids += double(all[next].ids.size());
    }
    exact.push_back(greedy / double(example.questions.size()));
    tokens.push_back(greedy_ids / ids);
    likelihood.push_back(sum / ids);
    out.questions += int64_t(example.questions.size());
    out.answer_tokens += int64_t(ids);
  }
  out.accuracy = mean_of(exact);
  out.token_accuracy = mean_of(tokens);
  out.log_likelihood = mean_of(likelihood);
  return out;
}

}  // namespace retort::probes
