// Runs tasks on a model: documents, their prompts, their scores, the numbers.
//
// Layer: eval. Not thread-safe: one engine, one call.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "eval/tasks/dataset.h"
#include "eval/tasks/encoding.h"
#include "eval/tasks/metrics.h"

namespace retort::harness {

struct EvaluationOptions {
  size_t examples = 0;            // --num-fewshot
  std::string examples_split;     // --fewshot-split; empty: the task's rule
  double limit = 0;               // documents of each task; below 1 a share of them; 0: all
  ContinuationOptions scoring;
};

struct ScoredDocument {
  Document document;
  std::vector<Request> requests;          // with description and examples
  std::vector<ContinuationScore> scores;  // one a request
  std::vector<Sample> samples;            // one a metric
  std::string document_hash, prompt_hash, target_hash;
};

// One task's run: what prepare_task() fills in, then what score_task() adds.
struct TaskRun {
  Task task;
  size_t examples = 0;
  int64_t documents_in_split = 0;
  std::vector<ScoredDocument> documents;
  std::vector<Estimate> estimates;        // one a metric
  ContinuationWork work;
};

// Reads files and draws examples: everything that can be wrong with the data is found before a model runs.
Result<TaskRun> prepare_task(const Task& task, DataFolder& data, const EvaluationOptions& options);

// An error where a document has no ids, as a rolling one with a tokenizer that has neither BOS nor EOS: found before a model runs.
Status check_encoding(const TaskRun& run, const RequestEncoder& encoder, ThreadPool& pool);

// Documents done.
using EvaluationProgress = std::function<void(int64_t done)>;
Status score_task(TaskRun& run, Engine& engine, const RequestEncoder& encoder, const EvaluationOptions& options,
                  const EvaluationProgress& progress = {});

}  // namespace retort::harness
