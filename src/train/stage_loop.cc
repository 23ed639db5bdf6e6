#include "train/stage_loop.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/format.h"
#include "base/interrupt.h"
#include "train/stage_cache.h"
#include "train/stepwise.h"

namespace retort::train {
namespace {

constexpr int64_t kLayersEvery = 10;  // steps between two lines of the log that have losses by layer

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void add_scaled(std::vector<LossPart>& sum, const std::vector<LossPart>& parts, double scale) {
  sum.resize(parts.size());
  for (size_t i = 0; i < parts.size(); ++i) sum[i].name = parts[i].name, sum[i].value += parts[i].value * scale;
}

void add_scaled(std::vector<LayerLoss>& sum, const std::vector<LayerLoss>& layers, double scale) {
  sum.resize(layers.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    sum[i].name = layers[i].name;
    sum[i].values.resize(layers[i].values.size());
    for (size_t l = 0; l < layers[i].values.size(); ++l) sum[i].values[l] += layers[i].values[l] * scale;
  }
}

// Steps of one stage share its place in the recipe, and with it one reading of the text.
size_t index_of(const RunContext& context, const StageSpec& stage) {
  const size_t steps = context.recipe.stages.size() - context.written.stages.size() + 1;
  return written_stage(size_t(&stage - context.recipe.stages.data()), steps);
}

}  // namespace

AdamSettings adam_settings(const StageSpec& stage) {
  return {stage.betas[0], stage.betas[1], stage.eps, stage.weight_decay, stage.clip, stage.ema};
}

Status save_run(RunContext& context, std::vector<StateTensor> of_stage) {
  std::vector<StateTensor> tensors;
  for (const auto& parameter : context.backend.tensors()) tensors.push_back({"w/" + parameter.name, parameter.value});
  tensors.insert(tensors.end(), of_stage.begin(), of_stage.end());
  if (context.metrics) context.state.metrics = context.metrics->position();
  return save_checkpoint(context.folder, context.state.run_step, to_json(context.state), tensors, context.group);
}

StageLoop::StageLoop(RunContext& context, const StageSpec& stage, const Budget& budget, std::unique_ptr<StageRunner> runner,
                     std::vector<Parameter> parameters)
    : context_(context),
      stage_(stage),
      runner_(std::move(runner)),
      optimizer_(std::move(parameters), adam_settings(stage), context.pool, context.group),
      stream_(open_stream(context.written, index_of(context, stage), context.data, context.encode, context.backend.teacher().vocab_size)),
      meter_(budget, stage.tokens_per_step()),
      rate_plateau_(stage.schedule.plateau),
      teacher_plateau_(stage.switch_teacher.plateau) {}

Result<std::unique_ptr<StageLoop>> StageLoop::create(RunContext& context, const StageSpec& stage, const Checkpoint* from) {
  auto made = context.backend.make_stage(stage);
  RETORT_RETURN_IF_ERROR(agree(context.group, made));
  std::unique_ptr<StageRunner> runner = std::move(*made);
  auto parameters = runner->parameters();
  if (parameters.empty()) {
    std::string patterns;
    for (const auto& pattern : stage.train) patterns += (patterns.empty() ? "" : ", ") + pattern;
    return common(context.group, invalid("stage '", stage.name, "' trains nothing: no tensor of the student matches ", patterns));
  }
  const size_t index = index_of(context, stage);
  const auto cache = open_cache(context.written, index, context.data, context.encode, context.backend);
  RETORT_RETURN_IF_ERROR(agree(context.group, cache));
  if (*cache) runner->use_cache(*cache);
  const auto& sizes = context.state.epoch_sizes;
  const auto budget = budget_of(stage, index < sizes.size() ? sizes[index] : 0);
  RETORT_RETURN_IF_ERROR(agree(context.group, budget));
  std::unique_ptr<StageLoop> loop(new StageLoop(context, stage, *budget, std::move(runner), std::move(parameters)));
  if (from) {
    RETORT_RETURN_IF_ERROR(loop->resume(*from));
  } else {
    context.state.current = StageReport{stage.name};
    if (!context.state.cursor.is_null()) RETORT_RETURN_IF_ERROR(agree(context.group, loop->stream_->restore(context.state.cursor)));
  }
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
  skipped_in_a_row_ = int(state.skipped_in_a_row);
  meter_.resume(state.current.steps, state.current.seconds, state.pace);
  RETORT_RETURN_IF_ERROR(agree(context_.group, resume_watch(from)));
  if (state.current.switched_at >= 0) RETORT_RETURN_IF_ERROR(runner_->switch_teacher(state.second_teacher(index_of(context_, stage_))));
  return agree(context_.group, stream_->restore(state.cursor));
}

Status StageLoop::resume_watch(const Checkpoint& from) {
  const auto& watch = context_.state.watch;
  if (!watch.is_object()) return {};
  const bool good = watch.contains("rate") && watch.contains("teacher") && watch.contains("reduced") && watch["reduced"].is_number() &&
                    watch.contains("due") && watch["due"].is_boolean();
  if (!good) return invalid(from.folder, ": what the stage watches makes no sense");
  RETORT_RETURN_IF_ERROR(rate_plateau_.restore(watch["rate"]));
  RETORT_RETURN_IF_ERROR(teacher_plateau_.restore(watch["teacher"]));
  reduced_ = watch["reduced"].get<double>(), switch_due_ = watch["due"].get<bool>();
  return {};
}

uint64_t StageLoop::seed_of(int micro) const {
  return mix_seed(context_.recipe.seed, uint64_t(context_.state.run_step), uint64_t(micro) + 7);
}

double StageLoop::rate_factor() const {
  const ScheduleSpec& schedule = stage_.schedule;
  const double factor = schedule_factor(schedule, stage_.lr, meter_.middle_of_next_step());
  if (schedule.kind != ScheduleKind::kPlateau || factor < 1) return factor;
  return std::max(reduced_, stage_.lr > 0 ? std::min(1.0, schedule.min_lr / stage_.lr) : 0.0);
}

void StageLoop::watch(double loss) {
  if (stage_.schedule.kind == ScheduleKind::kPlateau && rate_plateau_.add(loss)) reduced_ *= stage_.schedule.factor;
  const SwitchSpec& change = stage_.switch_teacher;
  if (change.to.empty() || context_.state.current.switched_at >= 0) return;
  if (change.when == SwitchSpec::When::kPlateau && teacher_plateau_.add(loss)) switch_due_ = true;
}

// Against another teacher the loss is another: a plateau schedule measures it anew.
Status StageLoop::switch_if_due(std::optional<Progress>& progress) {
  const SwitchSpec& change = stage_.switch_teacher;
  auto& report = context_.state.current;
  if (change.to.empty() || report.switched_at >= 0) return {};
  if (change.when == SwitchSpec::When::kStep) switch_due_ = report.steps >= change.step;
  if (change.when == SwitchSpec::When::kFraction) switch_due_ = meter_.middle_of_next_step().progress >= change.fraction;
  if (!switch_due_) return {};
  const std::string before = context_.state.second_teacher(index_of(context_, stage_));
  if (const Status opened = agree(context_.group, runner_->switch_teacher(before)); !opened.ok()) {
    RETORT_RETURN_IF_ERROR(checkpoint());   // what has been trained so far goes on when the file is back
    return opened;
  }
  report.switched_at = report.steps;
  rate_plateau_.reset();
  if (progress) progress->message(cat(stage_.name, ": after ", report.steps, " steps the teacher is ", change.to));
  return {};
}

Status StageLoop::sum_over_ranks(StepResult& result) const {
  std::vector<double*> places = {&result.loss, &result.gemm_seconds, &result.compute_seconds};
  for (auto* parts : {&result.parts, &result.measures}) {
    for (LossPart& part : *parts) places.push_back(&part.value);
  }
  for (LayerLoss& loss : result.layers) {
    for (double& value : loss.values) places.push_back(&value);
  }
  std::vector<double> values;
  for (const double* place : places) values.push_back(*place);
  RETORT_RETURN_IF_ERROR(train::sum(context_.group, values));
  for (size_t i = 0; i < places.size(); ++i) *places[i] = values[i];
  return {};
}

Result<bool> StageLoop::gradients(MetricsRow& row) {
  StepResult sum;
  tokens_of_step_ = 0;
  batches_.clear();
  for (int micro = 0; micro < stage_.accumulate; ++micro) {
    auto next = stream_->next();
    RETORT_RETURN_IF_ERROR(agree(context_.group, next));
    const Batch& batch = batches_.emplace_back(std::move(*next));
    tokens_of_step_ += int64_t(batch.tokens.size()) - batch.padding;
    StepContext step;
    step.step = meter_.steps();
    step.seed = seed_of(micro);
    step.scale = 1.0 / stage_.accumulate;
    RETORT_TRY(const StepResult result, runner_->step(batch, step));
    sum.loss += result.loss * step.scale;
    sum.gemm_seconds += result.gemm_seconds;
    sum.compute_seconds += result.compute_seconds;
    add_scaled(sum.parts, result.parts, step.scale);
    add_scaled(sum.measures, result.measures, step.scale);
    add_scaled(sum.layers, result.layers, step.scale);
  }
  RETORT_RETURN_IF_ERROR(sum_over_ranks(sum));
  auto& report = context_.state.current;
  report.gemm_seconds += sum.gemm_seconds;
  report.compute_seconds += sum.compute_seconds;
  row.loss = sum.loss;
  for (const auto& part : sum.parts) row.parts.emplace_back(part.name, part.value);
  for (const auto& measure : sum.measures) row.measures.emplace_back(measure.name, measure.value);
  row.layers = std::move(sum.layers);
  row.gemm_share = sum.compute_seconds > 0 ? sum.gemm_seconds / sum.compute_seconds : 0;
  return std::isfinite(sum.loss);
}

Status StageLoop::step() {
  const double begin = now();
  auto& state = context_.state;
  auto& report = state.current;
  MetricsRow row;
  RETORT_TRY(const bool finite, gradients(row));
  const double factor = rate_factor();
  const double of_mixers = stage_.lr_mixers > 0 ? stage_.lr_mixers : stage_.lr;
  const auto rate = [&](double own) { return (own > 0 ? own : of_mixers) * factor; };
  row.lr = stage_.lr * factor;
  if (finite) {
    RETORT_TRY(row.grad_norm, optimizer_.step({rate(0), rate(stage_.lr_features), rate(stage_.lr_gates), row.lr}));
  } else {
    optimizer_.drop_gradients();
  }
  const bool good = finite && std::isfinite(row.grad_norm);
  skipped_in_a_row_ = good ? 0 : skipped_in_a_row_ + 1;
  if (!good) remember_bad_step(row);
  if (!good) ++report.skipped;
  else if (report.steps == report.skipped) report.first_loss = row.loss;
  if (good) {
    report.last_loss = row.loss;
    watch(row.loss);
  }

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
  if (!stage_.switch_teacher.to.empty()) row.teacher = report.switched_at >= 0 ? stage_.switch_teacher.to : context_.teacher;
  row.run_step = state.run_step;
  row.tokens = state.tokens;
  row.tokens_per_s = seconds > 0 ? double(tokens) / seconds : 0;
  row.time = state.seconds;
  if (report.steps != 1 && report.steps % kLayersEvery != 0 && !meter_.done()) row.layers.clear();
  last_ = row;
  RETORT_RETURN_IF_ERROR(agree(context_.group, context_.metrics ? context_.metrics->add(row) : Status()));
  if (skipped_in_a_row_ < stage_.max_skipped) return {};
  return too_many_skipped(cat(skipped_in_a_row_, skipped_in_a_row_ == 1 ? " step" : " steps", " in a row, the last one step ", report.steps));
}

void StageLoop::remember_bad_step(const MetricsRow& row) {
  bad_step_ = {stage_.name, context_.state.current.steps + 1, context_.state.run_step + 1, skipped_in_a_row_, row.lr, row.loss, row.grad_norm, row.parts,
               row.layers, {}};
  for (size_t micro = 0; micro < batches_.size(); ++micro) bad_step_.batches.push_back({seed_of(int(micro)), batches_[micro]});
}

Status StageLoop::too_many_skipped(const std::string& which) const {
  const auto saved = context_.group.leads() ? write_bad_step(context_.folder, bad_step_) : Status();
  return common(context_.group, invalid("stage '", stage_.name, "': the loss or its gradient was not finite in ", which, "; ",
                                        saved.ok() ? cat(context_.folder, "/", kBadStep, " has that step's data; ") : "",
                                        "a lower lr or a clip usually helps: --set ", stage_.name.substr(0, stage_.name.find('[')), ".lr=", stage_.lr / 3,
                                        " --overwrite"));
}

Status StageLoop::checkpoint() {
  const double begin = now();
  auto& state = context_.state;
  state.cursor = stream_->cursor();
  state.watch = {{"rate", rate_plateau_.cursor()}, {"teacher", teacher_plateau_.cursor()}, {"reduced", reduced_}, {"due", switch_due_}};
  state.pace = meter_.seconds_per_step();
  state.optimizer_steps = optimizer_.steps();
  state.skipped_in_a_row = skipped_in_a_row_;
  RETORT_RETURN_IF_ERROR(save_run(context_, tensors()));
  RETORT_TRY(const double seconds, of_leader(context_.group, now() - begin));
  meter_.pass(seconds);
  since_checkpoint_ = 0;
  return {};
}

Status StageLoop::saved_interruption() {
  RETORT_RETURN_IF_ERROR(checkpoint());
  return common(context_.group, {ErrorCode::kInterrupted, cat("interrupted; saved after step ", meter_.steps(), " of stage '", stage_.name, "'. Go on with: ",
                                                              context_.how_to_resume)});
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
    RETORT_TRY(const bool stop, anybody(context_.group, interrupted()));   // all ranks stop at the same step
    if (stop) return saved_interruption();
    RETORT_RETURN_IF_ERROR(switch_if_due(progress));
    RETORT_RETURN_IF_ERROR(step());
    if (progress) show(*progress, last_);
    const double interval = context_.recipe.checkpoint_minutes * 60;
    if (interval > 0 && since_checkpoint_ >= interval && !meter_.done()) RETORT_RETURN_IF_ERROR(checkpoint());
  }
  const auto& report = context_.state.current;
  if (report.skipped == report.steps) return too_many_skipped(report.steps == 1 ? "its only step" : cat("any of its ", report.steps, " steps"));
  optimizer_.take_average();
  RETORT_RETURN_IF_ERROR(runner_->finish());
  context_.state.cursor = stream_->cursor();
  if (progress) {
    progress->finish(cat(format_count(report.steps), " steps, ", format_count(report.tokens), " tokens, ", format_duration(report.seconds), ", loss ",
                         format_significant(report.first_loss, 4), " -> ", format_significant(report.last_loss, 4)));
  }
  return {};
}

}  // namespace retort::train
