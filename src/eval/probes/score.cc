#include "eval/probes/score.h"

namespace retort::probes {

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
  out.accuracy = harness::mean_with_error(exact);
  out.token_accuracy = harness::mean_with_error(tokens);
  out.log_likelihood = harness::mean_with_error(likelihood);
  return out;
}

}  // namespace retort::probes
