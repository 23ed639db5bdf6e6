#include "eval/tasks/evaluation.h"

#include <cmath>

#include "base/sha256.h"
#include "eval/tasks/examples.h"

namespace retort::harness {
namespace {

// Documents that share one prefix tree: enough that little is read twice, few enough that the tree stays small.
constexpr size_t kTreeDocuments = 256;

size_t documents_wanted(double limit, size_t available) {
  if (limit <= 0) return available;
  return std::min(available, size_t(limit < 1 ? std::ceil(limit * double(available)) : limit));
}

// The harness's three hashes of what was asked: the row, the first prompt, the answer.
void add_hashes(ScoredDocument& out, Kind kind) {
  out.document_hash = sha256_hex(out.document.row.dump(2));
  out.prompt_hash = sha256_hex(kind == Kind::kRolling ? out.requests[0].continuation : out.requests[0].context);
  out.target_hash = sha256_hex(out.document.target);
}

Result<EncodedDocuments> encode_documents(const RequestEncoder& encoder, const Task& task, std::span<const ScoredDocument> documents,
                                          size_t first, ThreadPool& pool) {
  std::vector<std::vector<Result<std::vector<Continuation>>>> encoded(documents.size());
  pool.parallel_for(int64_t(documents.size()), 1, [&](int64_t begin, int64_t end) {
    for (size_t d = size_t(begin); d < size_t(end); ++d) {
      for (const Request& request : documents[d].requests) {
        encoded[d].push_back(encoder.encode(request, task.kind, cat(task.name, ": document ", first + d + 1)));
      }
    }
  });
  EncodedDocuments out;
  out.documents = documents.size();
  for (size_t d = 0; d < encoded.size(); ++d) {
    for (size_t r = 0; r < encoded[d].size(); ++r) {
      RETORT_TRY(auto parts, std::move(encoded[d][r]));
      for (Continuation& part : parts) {
        out.continuations.push_back(std::move(part));
        out.owners.push_back({d, r});
      }
    }
  }
  return out;
}

Status score_documents(std::span<ScoredDocument> documents, size_t first, const EncodedDocuments& encoded, TaskRun& run, Engine& engine,
                       const EvaluationOptions& options, const EvaluationProgress& progress) {
  const auto show = [&](int64_t done) {
    const double share = double(done) / double(std::max<size_t>(1, encoded.continuations.size()));
    if (progress) progress(int64_t(first) + int64_t(share * double(documents.size())));
  };
  RETORT_TRY(const auto scores, score_continuations(engine, encoded.continuations, options.scoring, run.work, show));
  for (ScoredDocument& one : documents) one.scores.resize(one.requests.size());
  for (size_t i = 0; i < scores.size(); ++i) {
    ContinuationScore& total = documents[encoded.owners[i].document].scores[encoded.owners[i].request];
    total.log_likelihood += scores[i].log_likelihood;
    total.greedy &= scores[i].greedy;
  }
  for (ScoredDocument& one : documents) {
    for (const Metric& metric : run.task.metrics) one.samples.push_back(sample_metric(metric.value, one.document, one.scores));
  }
  return {};
}

}  // namespace

Result<TaskRun> prepare_task(const Task& task, DataFolder& data, const EvaluationOptions& options) {
  TaskRun out;
  out.task = task;
  out.examples = task.no_examples ? 0 : options.examples;
  RETORT_TRY(std::vector<Document> documents, data.documents(task, task.evaluated_split()));
  out.documents_in_split = int64_t(documents.size());
  std::vector<Document> pool;
  ExampleSource source;
  if (out.examples > 0) {
    source = example_source(task, options.examples_split);
    RETORT_TRY(pool, data.documents(task, source.split.c_str()));
  }
  ExampleSampler sampler(pool, out.examples, task.first_examples, source.leave_out_document);
  documents.resize(documents_wanted(options.limit, documents.size()));
  for (Document& document : documents) {
    RETORT_TRY(const std::string examples, sampler.draw(document, cat(task.name, ": ", source.split, " split")));
    ScoredDocument& one = out.documents.emplace_back();
    for (const Request& request : document.requests) {
      one.requests.push_back({task.description + examples + request.context, request.continuation});
    }
    one.document = std::move(document);
    add_hashes(one, task.kind);
  }
  return out;
}

Result<EncodedTask> encode_task(const TaskRun& run, const RequestEncoder& encoder, ThreadPool& pool) {
  EncodedTask out;
  for (size_t first = 0; first < run.documents.size(); first += kTreeDocuments) {
    const size_t count = std::min(kTreeDocuments, run.documents.size() - first);
    RETORT_TRY(out.emplace_back(), encode_documents(encoder, run.task, std::span(run.documents).subspan(first, count), first, pool));
  }
  return out;
}

Status score_task(TaskRun& run, Engine& engine, const EncodedTask& encoded, const EvaluationOptions& options,
                  const EvaluationProgress& progress) {
  size_t first = 0;
  for (const EncodedDocuments& some : encoded) {
    RETORT_RETURN_IF_ERROR(score_documents(std::span(run.documents).subspan(first, some.documents), first, some, run, engine, options, progress));
    first += some.documents;
  }
  for (size_t m = 0; m < run.task.metrics.size(); ++m) {
    std::vector<Sample> samples;
    for (const ScoredDocument& one : run.documents) samples.push_back(one.samples[m]);
    run.estimates.push_back(aggregate(run.task.metrics[m].mean, samples, engine.pool()));
  }
  return {};
}

}  // namespace retort::harness
