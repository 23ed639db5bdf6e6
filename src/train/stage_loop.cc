#include "train/stage_loop.h"

#include <chrono>
#include <cmath>

#include "base/format.h"
#include "base/interrupt.h"
#include "train/preference_data.h"

namespace retort::train {
namespace {

constexpr int kMostSkippedInARow = 5;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

AdamSettings settings_of(const StageSpec& stage) {
  return {stage.betas[0], stage.betas[1], stage.eps, stage.weight_decay, stage.clip, stage.ema};
}

std::unique_ptr<BatchStream> open_stream(const RunContext& context, const StageSpec& stage) {
  const uint64_t seed = mix_seed(context.recipe.seed, 1, uint64_t(&stage - context.recipe.stages.data()));
  const int vocab_size = context.backend.teacher().vocab_size;
  if (stage.compares_pairs()) {
    const int max_prompt = stage.max_prompt > 0 ? stage.max_prompt : stage.seq / 2;
    return std::make_unique<PairStream>(context.text, context.encode.chat, PairOptions{stage.batch, stage.seq, max_prompt, seed, vocab_size});
  }
  return std::make_unique<TokenStream>(context.text, context.encode, StreamOptions{stage.batch, stage.seq, seed, stage.repeat_every, vocab_size});
}

}  // namespace

Status save_run(RunContext& context, std::vector<StateTensor> of_stage) {
  std::vector<StateTensor> tensors;
  for (const auto& parameter : context.backend.tensors()) tensors.push_back({"w/" + parameter.name, parameter.value});
  tensors.insert(tensors.end(), of_stage.begin(), of_stage.end());
  if (context.metrics) context.state.metrics = context.metrics->position();
  return save_checkpoint(context.folder, context.state.run_step, to_json(context.state), tensors, context.group);
}

StageLoop::StageLoop(RunContext& context, const StageSpec& stage, std::unique_ptr<StageRunner> runner, std::vector<Parameter> parameters)
    : context_(context),
      stage_(stage),
      runner_(std::move(runner)),
      optimizer_(std::move(parameters), settings_of(stage), context.pool, context.group),
      stream_(open_stream(context, stage)),
      meter_(stage.budget, stage.tokens_per_step()) {}

Result<std::unique_ptr<StageLoop>> StageLoop::create(RunContext& context, const StageSpec& stage, const Checkpoint* from) {
  RETORT_TRY(auto runner, context.backend.make_stage(stage));
  auto parameters = runner->parameters();
  if (parameters.empty()) {
    std::string patterns;
    for (const auto& pattern : stage.train) patterns += (patterns.empty() ? "" : ", ") + pattern;
    return invalid("stage '", stage.name, "' trains nothing: no tensor of the student matches ", patterns);
  }
  std::unique_ptr<StageLoop> loop(new StageLoop(context, stage, std::move(runner), std::move(parameters)));
  if (from) RETORT_RETURN_IF_ERROR(loop->resume(*from));
  else context.state.current = StageReport{stage.name};
  return loop;
}

std::vector<StateTensor> StageLoop::tensors() {
  std::vector<StateTensor> out = optimizer_.state();
  for (const auto& parameter : runner_->memory()) out.push_back({"memory/" + parameter.name, parameter.value});
  return out;
}

Status StageLoop::resume(const Checkpoint& from) {
  const RunState& state = context_.state;
  RETORT_RETURN_IF_ERROR(from.load(tensors(), context_.group));
  optimizer_.set_steps(state.optimizer_steps);
  meter_.resume(state.current.steps, state.current.seconds, state.pace);
  return stream_->restore(state.cursor);
}

Status StageLoop::sum_over_ranks(StepResult& result) const {
  std::vector<double*> places = {&result.loss, &result.gemm_seconds, &result.compute_seconds};
  for (auto* parts : {&result.parts, &result.measures}) {
    for (LossPart& part : *parts) places.push_back(&part.value);
  }
  std::vector<double> values;
  for (const double* place : places) values.push_back(*place);
  RETORT_RETURN_IF_ERROR(sum(context_.group, values));
  for (size_t i = 0; i < places.size(); ++i) *places[i] = values[i];
  return {};
}

// All ranks stop at the same step.
Result<bool> StageLoop::anyone_interrupted() const {
  double count = interrupted() ? 1 : 0;
  RETORT_RETURN_IF_ERROR(sum(context_.group, {&count, 1}));
  return count > 0;
}

Result<bool> StageLoop::gradients(MetricsRow& row) {
  StepResult sum;
  tokens_of_step_ = 0;
  for (int micro = 0; micro < stage_.accumulate; ++micro) {
    RETORT_TRY(const Batch batch, stream_->next());
    tokens_of_step_ += int64_t(batch.tokens.size()) - batch.padding;
    StepContext step;
    step.step = meter_.steps();
    step.seed = mix_seed(context_.recipe.seed, uint64_t(context_.state.run_step), uint64_t(micro) + 7);
    step.scale = 1.0 / stage_.accumulate;
    RETORT_TRY(const StepResult result, runner_->step(batch, step));
    sum.loss += result.loss * step.scale;
    sum.gemm_seconds += result.gemm_seconds;
    sum.compute_seconds += result.compute_seconds;
    for (size_t i = 0; i < result.parts.size(); ++i) {
      if (micro == 0) sum.parts.push_back({result.parts[i].name, 0});
      sum.parts[i].value += result.parts[i].value * step.scale;
    }
    for (size_t i = 0; i < result.measures.size(); ++i) {
      if (micro == 0) sum.measures.push_back({result.measures[i].name, 0});
      sum.measures[i].value += result.measures[i].value * step.scale;
    }
  }
  RETORT_RETURN_IF_ERROR(sum_over_ranks(sum));
  auto& report = context_.state.current;
  report.gemm_seconds += sum.gemm_seconds;
  report.compute_seconds += sum.compute_seconds;
  row.loss = sum.loss;
  for (const auto& part : sum.parts) row.parts.emplace_back(part.name, part.value);
  for (const auto& measure : sum.measures) row.measures.emplace_back(measure.name, measure.value);
  row.gemm_share = sum.compute_seconds > 0 ? sum.gemm_seconds / sum.compute_seconds : 0;
  return std::isfinite(sum.loss);
}

Status StageLoop::step() {
  const double begin = now();
  auto& state = context_.state;
  auto& report = state.current;
  MetricsRow row;
  RETORT_TRY(const bool finite, gradients(row));
  const double factor = schedule_factor(stage_.schedule, stage_.lr, meter_.middle_of_next_step());
  const auto rate = [&](double own) { return (own > 0 ? own : stage_.lr) * factor; };
  row.lr = stage_.lr * factor;
  if (finite) {
    RETORT_TRY(row.grad_norm, optimizer_.step({row.lr, rate(stage_.lr_features), rate(stage_.lr_gates)}));
  } else {
    optimizer_.drop_gradients();
  }
  const bool good = finite && std::isfinite(row.grad_norm);
  skipped_in_a_row_ = good ? 0 : skipped_in_a_row_ + 1;
  if (!good) ++report.skipped;
  else if (report.steps == report.skipped) report.first_loss = row.loss;
  if (good) report.last_loss = row.loss;

  const int64_t tokens = tokens_of_step_;
  RETORT_TRY(const double seconds, of_leader(context_.group, now() - begin));
  meter_.step(seconds);
  ++report.steps;
  report.tokens += tokens;
  report.seconds = meter_.seconds();
  ++state.run_step;
  state.tokens += tokens;
  state.seconds += seconds;
  since_checkpoint_ += seconds;

  row.stage = stage_.name;
  row.step = report.steps;
  row.steps = int64_t(meter_.total_steps());
  row.run_step = state.run_step;
  row.tokens = state.tokens;
  row.tokens_per_s = seconds > 0 ? double(tokens) / seconds : 0;
  row.time = state.seconds;
  last_ = row;
  if (context_.metrics) RETORT_RETURN_IF_ERROR(context_.metrics->add(row));
  if (skipped_in_a_row_ < kMostSkippedInARow) return {};
  return too_many_skipped(cat(kMostSkippedInARow, " steps in a row, the last one step ", report.steps));
}

Status StageLoop::too_many_skipped(const std::string& which) const {
  return invalid("stage '", stage_.name, "': the loss or its gradient was not finite in ", which,
                 "; a lower lr or a clip usually helps: --set ", stage_.name, ".lr=", stage_.lr / 3, " --overwrite");
}

Status StageLoop::checkpoint() {
  const double begin = now();
  auto& state = context_.state;
  state.cursor = stream_->cursor();
  state.pace = meter_.seconds_per_step();
  state.optimizer_steps = optimizer_.steps();
  RETORT_RETURN_IF_ERROR(save_run(context_, tensors()));
  RETORT_TRY(const double seconds, of_leader(context_.group, now() - begin));
  meter_.pass(seconds);
  since_checkpoint_ = 0;
  return {};
}

Status StageLoop::saved_interruption() {
  RETORT_RETURN_IF_ERROR(checkpoint());
  return Error{ErrorCode::kInterrupted, cat("interrupted; saved after step ", meter_.steps(), " of stage '", stage_.name, "'. Go on with: ",
                                            context_.how_to_resume)};
}

void StageLoop::show(Progress& progress, const MetricsRow& row) const {
  std::string note = cat("loss ", format_significant(row.loss, 4), "  ", format_significant(row.tokens_per_s, 3), " tok/s");
  const auto skipped = context_.state.current.skipped;
  if (skipped > 0) note += cat("  ", skipped, " skipped");
  const bool clock = stage_.budget.minutes > 0;
  progress.update(clock ? int64_t(meter_.seconds()) : meter_.steps(), note);
}

Status StageLoop::run() {
  const bool clock = stage_.budget.minutes > 0;
  const auto total = clock ? int64_t(stage_.budget.minutes * 60) : int64_t(meter_.total_steps());
  std::optional<Progress> progress;
  if (context_.group.leads()) progress.emplace(cat(context_.recipe.name, ": ", stage_.name, clock ? " (seconds)" : ""), total);
  while (!meter_.done()) {
    RETORT_TRY(const bool stop, anyone_interrupted());
    if (stop) return saved_interruption();
    RETORT_RETURN_IF_ERROR(step());
    if (progress) show(*progress, last_);
    const double interval = context_.recipe.checkpoint_minutes * 60;
    if (interval > 0 && since_checkpoint_ >= interval && !meter_.done()) RETORT_RETURN_IF_ERROR(checkpoint());
  }
  const auto& report = context_.state.current;
  if (report.skipped == report.steps) return too_many_skipped(report.steps == 1 ? "its only step" : cat("any of its ", report.steps, " steps"));
  optimizer_.take_average();
  if (progress) progress->finish(cat(format_count(report.steps), " steps, ", format_count(report.tokens), " tokens, ", format_duration(report.seconds), ", loss ",
                      format_significant(report.first_loss, 4), " -> ", format_significant(report.last_loss, 4)));
  return {};
}

}  // namespace retort::train
