#include "eval/tasks/metrics.h"

#include <cmath>

#include "eval/tasks/python_random.h"
#include "eval/tasks/python_text.h"
#include "io/utf8.h"

namespace retort::harness {
namespace {

// Of equal ones the first.
template <class Score>
bool best_is(int gold, size_t count, Score&& score) {
  size_t best = 0;
  for (size_t i = 1; i < count; ++i) {
    if (score(i) > score(best)) best = i;
  }
  return best == size_t(gold);
}

double true_mass(const Document& document, std::span<const ContinuationScore> scores) {
  double all = 0, right = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    const double probability = std::exp(scores[i].log_likelihood);
    all += probability;
    if (document.true_choices[i]) right += probability;
  }
  return right / all;
}

double mean_of(std::span<const double> values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / double(values.size());
}

double sample_deviation(std::span<const double> values) {
  const double mean = mean_of(values);
  double squares = 0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return std::sqrt(squares / double(values.size() - 1));
}

// Rounds of drawing as many documents as there are, with replacement; a generator per thousand rounds, seeded by its number.
double bootstrapped_perplexity_error(std::span<const double> values, ThreadPool& pool, int rounds) {
  const int chunk = std::min(1000, rounds), chunks = rounds / chunk;
  std::vector<double> results(size_t(chunk) * size_t(chunks));
  pool.run_chunks(chunks, [&](int64_t c) {
    PythonRandom random{uint32_t(c)};
    for (int round = 0; round < chunk; ++round) {
      double sum = 0;
      for (size_t i = 0; i < values.size(); ++i) sum += values[size_t(random.uniform() * double(values.size()))];
      results[size_t(c * chunk + round)] = std::exp(-sum / double(values.size()));
    }
  });
  return sample_deviation(results);
}

}  // namespace

Sample sample_metric(Metric::Value what, const Document& document, std::span<const ContinuationScore> scores) {
  using enum Metric::Value;
  const auto plain = [&](size_t i) { return scores[i].log_likelihood; };
  const auto per_character = [&](size_t i) { return scores[i].log_likelihood / double(utf8::count(document.choices[i])); };
  switch (what) {
    case kBestChoice: return {double(best_is(document.gold, scores.size(), plain))};
    case kBestChoicePerCharacter: return {double(best_is(document.gold, scores.size(), per_character))};
    case kTrueMass: return {true_mass(document, scores)};
    case kGreedy: return {double(scores[0].greedy)};
    case kLogLikelihood: return {scores[0].log_likelihood};
    // Counted in the page as it was before it became ordinary text.
    case kPerWord: return {scores[0].log_likelihood, count_words(document.row["page"].get_ref<const std::string&>())};
    case kPerByte: return {scores[0].log_likelihood, int64_t(document.row["page"].get_ref<const std::string&>().size())};
  }
  return {};
}

Estimate mean_with_error(std::span<const double> values) {
  Estimate out{mean_of(values), {}};
  if (values.size() > 1) out.error = sample_deviation(values) / std::sqrt(double(values.size()));
  return out;
}

Estimate aggregate(Metric::Mean mean, std::span<const Sample> samples, ThreadPool& pool, int bootstrap_rounds) {
  std::vector<double> values;
  double total = 0, weight = 0;
  for (const Sample& sample : samples) {
    values.push_back(sample.value);
    total += sample.value;
    weight += double(sample.weight);
  }
  const bool has_error = values.size() > 1;
  switch (mean) {
    case Metric::Mean::kMean: return mean_with_error(values);
    case Metric::Mean::kPerplexity: {
      Estimate out{std::exp(-mean_of(values)), {}};
      if (has_error) out.error = bootstrapped_perplexity_error(values, pool, bootstrap_rounds);
      return out;
    }
    case Metric::Mean::kWeightedPerplexity: return {std::exp(-total / weight), {}};
    case Metric::Mean::kBitsPerByte: return {-total / weight / std::log(2.0), {}};
  }
  return {};
}

Estimate pooled(std::span<const Part> parts) {
  double sum = 0, documents = 0, variance = 0;
  bool has_error = true;
  for (const Part& part : parts) {
    const double size = double(part.size);
    sum += part.estimate.value * size;
    documents += size;
    has_error = has_error && part.estimate.error;
    if (part.estimate.error) variance += (size - 1) * *part.estimate.error * *part.estimate.error * size;
  }
  Estimate out{sum / documents, {}};
  if (has_error) out.error = std::sqrt(variance / (documents - double(parts.size())) / documents);
  return out;
}

}  // namespace retort::harness
