// A student beside its teacher on the same documents.
//
// Layer: eval. Thread-safe: pure functions.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "eval/tasks/evaluation.h"

namespace retort::harness {

struct ComparisonRow {
  std::string task, metric;
  bool higher_is_better = true;
  Estimate student, teacher;
  Estimate ratio;  // student to teacher
  bool is_part = false;  // of a group that has its own row
};

// The ratio's error is that of paired documents (delta method): what is hard for both does not count.
Estimate paired_ratio(Metric::Mean mean, std::span<const Sample> student, std::span<const Sample> teacher);

// Tasks in the same order on both sides; groups after them.
std::vector<ComparisonRow> compare(std::span<const TaskRun> student, std::span<const TaskRun> teacher);

}  // namespace retort::harness
