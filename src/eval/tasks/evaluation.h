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

// The requests of some documents in a row, which share one prefix tree, as ids; and to which request each belongs: a rolling one has several
// windows.
struct EncodedDocuments {
  struct Owner {
    size_t document, request;             // the document among these
  };
  size_t documents = 0;
  std::vector<Continuation> continuations;
  std::vector<Owner> owners;
};
// All of a task's, in order, by one model's tokenizer.
using EncodedTask = std::vector<EncodedDocuments>;

// An error where a document has no ids, as a rolling one with a tokenizer that has neither BOS nor EOS: found before a model runs.
Result<EncodedTask> encode_task(const TaskRun& run, const RequestEncoder& encoder, ThreadPool& pool);

// Documents done.
using EvaluationProgress = std::function<void(int64_t done)>;
// `encoded`: this task's, by the engine's model's tokenizer.
Status score_task(TaskRun& run, Engine& engine, const EncodedTask& encoded, const EvaluationOptions& options,
                  const EvaluationProgress& progress = {});

}  // namespace retort::harness
