#include "train/step_probe.h"

#include <algorithm>
#include <sys/resource.h>

#include "base/timing.h"
#include "train/optimizer.h"
#include "train/random.h"
#include "train/stage_loop.h"

namespace retort::train {
namespace {

constexpr double kLongStep = 10;  // seconds

// What restore() leaves for a checkpoint to fill.
void fill_empty(const std::vector<Parameter>& tensors) {
  Random random{1};
  for (const auto& tensor : tensors) {
    if (std::any_of(tensor.value.begin(), tensor.value.end(), [](float v) { return v != 0; })) continue;
    for (float& v : tensor.value) v = float(double(random.below(2001)) - 1000) * 2e-5f;
  }
}

Result<StageTime> probe_stage(const StageSpec& stage, Backend& backend, BatchStream& batches, ThreadPool& pool, ProcessGroup& group) {
  const auto made = backend.make_stage(stage);
  RETORT_RETURN_IF_ERROR(agree(group, made));
  StageRunner& runner = **made;
  AdamW optimizer(runner.parameters(), adam_settings(stage), pool, group);
  StageTime time;
  for (int i = 0; i < 2 && time.step_seconds < kLongStep; ++i) {
    const auto begin = Clock::now();
    const auto next = batches.next();
    RETORT_RETURN_IF_ERROR(agree(group, next));
    const Batch& batch = *next;
    StepContext context;
    context.step = i, context.seed = uint64_t(i), context.scale = 1.0 / stage.accumulate;
    RETORT_TRY(const StepResult result, runner.step(batch, context));
    const double computing = seconds_since(begin);
    const auto computed = Clock::now();
    RETORT_RETURN_IF_ERROR(optimizer.step({}));  // of rate 0
    RETORT_TRY(time.step_seconds, of_leader(group, computing * stage.accumulate + seconds_since(computed)));
    time.step_tokens = (int64_t(batch.tokens.size()) - batch.padding) * stage.accumulate;
  }
  return time;
}

}  // namespace

Result<ProbedRun> probe_steps(const Recipe& recipe, Backend& backend, const ModelConfig& student, const StageData& data, const Encoders& encode,
                              int threads, ProcessGroup& group) {
  RETORT_RETURN_IF_ERROR(agree(group, backend.restore(recipe.student, student.plan)));
  fill_empty(backend.tensors());
  ThreadPool pool(threads);
  ProbedRun out;
  for (size_t s = 0; s < recipe.stages.size(); ++s) {
    const auto batches = open_stream(recipe, s, data, encode, backend.teacher().vocab_size);
    RETORT_TRY(const StageTime time, probe_stage(recipe.stages[s], backend, *batches, pool, group));
    out.stages.push_back(time);
  }
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  RETORT_TRY(const double peak, least(group, -double(usage.ru_maxrss)));
  out.peak_bytes = int64_t(-peak) * 1024;
  return out;
}

}  // namespace retort::train
