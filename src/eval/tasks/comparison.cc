#include "eval/tasks/comparison.h"

#include <cmath>

namespace retort::harness {
namespace {

std::vector<Sample> samples_of(const TaskRun& run, size_t metric) {
  std::vector<Sample> out;
  for (const ScoredDocument& one : run.documents) out.push_back(one.samples[metric]);
  return out;
}

// Square root of n/(n-1) times the sum of squares: the error of a sum over documents that could have been others.
std::optional<double> error_of_sum(double squares, size_t count) {
  if (count < 2) return {};
  return std::sqrt(squares * double(count) / double(count - 1));
}

// Sum of a over sum of b.
Estimate ratio_of_sums(std::span<const Sample> a, std::span<const Sample> b) {
  double above = 0, below = 0, squares = 0;
  for (size_t i = 0; i < a.size(); ++i) above += a[i].value, below += b[i].value;
  const double ratio = above / below;
  for (size_t i = 0; i < a.size(); ++i) squares += std::pow(a[i].value - ratio * b[i].value, 2);
  Estimate out{ratio, error_of_sum(squares, a.size())};
  if (out.error) *out.error /= std::abs(below);
  return out;
}

// exp of the difference of the mean negative log-likelihoods, per unit of weight.
Estimate ratio_of_perplexities(std::span<const Sample> a, std::span<const Sample> b) {
  double difference = 0, weight = 0, squares = 0;
  for (size_t i = 0; i < a.size(); ++i) difference += b[i].value - a[i].value, weight += double(a[i].weight);
  const double mean = difference / weight;
  for (size_t i = 0; i < a.size(); ++i) squares += std::pow(b[i].value - a[i].value - mean * double(a[i].weight), 2);
  Estimate out{std::exp(mean), error_of_sum(squares, a.size())};
  if (out.error) *out.error *= out.value / weight;
  return out;
}

}  // namespace

Estimate paired_ratio(Metric::Mean mean, std::span<const Sample> student, std::span<const Sample> teacher) {
  const bool sums = mean == Metric::Mean::kMean || mean == Metric::Mean::kBitsPerByte;
  return sums ? ratio_of_sums(student, teacher) : ratio_of_perplexities(student, teacher);
}

std::vector<ComparisonRow> compare(std::span<const TaskRun> student, std::span<const TaskRun> teacher) {
  std::vector<ComparisonRow> out;
  for (size_t t = 0; t < student.size(); ++t) {
    for (size_t m = 0; m < student[t].task.metrics.size(); ++m) {
      const Metric& metric = student[t].task.metrics[m];
      out.push_back({student[t].task.name, metric.name, metric.higher_is_better, student[t].estimates[m], teacher[t].estimates[m],
                     paired_ratio(metric.mean, samples_of(student[t], m), samples_of(teacher[t], m)), !student[t].task.group.empty()});
    }
  }
  std::vector<Task> tasks;
  for (const TaskRun& run : student) tasks.push_back(run.task);
  for (const Group& group : groups_of(tasks)) {
    std::vector<Part> ours, theirs;
    std::vector<Sample> a, b;
    for (size_t t = 0; t < student.size(); ++t) {
      if (!belongs_to(student[t].task, group)) continue;
      ours.push_back({student[t].estimates[0], int64_t(student[t].documents.size())});
      theirs.push_back({teacher[t].estimates[0], int64_t(teacher[t].documents.size())});
      for (const Sample& sample : samples_of(student[t], 0)) a.push_back(sample);
      for (const Sample& sample : samples_of(teacher[t], 0)) b.push_back(sample);
    }
    out.push_back({group.name, "acc", true, pooled(ours), pooled(theirs), paired_ratio(Metric::Mean::kMean, a, b)});
  }
  return out;
}

}  // namespace retort::harness
