#include "train/stepwise.h"

#include <algorithm>

#include "mixers/list.h"
#include "model/layout.h"
#include "train/schedule.h"
#include "train/student_plan.h"

namespace retort::train {
namespace {

using Heads = std::vector<std::pair<int, int>>;

bool has_mixer(const LayerPlan& layer) {
  return std::any_of(layer.parts.begin(), layer.parts.end(), [](const Part& part) { return part.mixer != Attention::kName; });
}

int trailing_ones(int i) {
  int n = 0;
  for (; i & 1; i >>= 1) ++n;
  return n;
}

// Layer by layer in the paper's order.
std::vector<int> one_by_one(std::vector<int> layers) {
  std::sort(layers.begin(), layers.end(), [](int a, int b) { return std::pair(trailing_ones(a), a) < std::pair(trailing_ones(b), b); });
  return layers;
}

// What every step replaces beyond the steps before it. `last`: all that is replaced in the end.
Result<std::vector<std::vector<int>>> rising(const StudentSpec& student, const std::vector<int>& last, int layers) {
  std::vector<std::vector<int>> out;
  if (student.stepwise.one_by_one) {
    for (int l : one_by_one(last)) out.push_back({l});
    return out;
  }
  std::vector<int> rest = last;
  for (double share : student.stepwise.shares) {
    const auto kept = interleaved_layers(share, layers);
    std::vector<int> now;
    for (int l : rest) {
      if (!std::binary_search(kept.begin(), kept.end(), l)) now.push_back(l);
    }
    for (int l : now) std::erase(rest, l);
    out.push_back(std::move(now));
  }
  out.push_back(rest);
  for (size_t k = 0; k < out.size(); ++k) {
    if (!out[k].empty()) continue;
    const std::string what = k < student.stepwise.shares.size() ? cat("the step that keeps ", student.stepwise.shares[k]) : "the last step";
    return invalid("recipe: student.stepwise: ", what, " replaces nothing", k > 0 ? " that those before it left" : cat(" in ", layers, " layers"),
                   "; student.keep is ", keep_text(student.keep));
  }
  return out;
}

std::string share_text(double share) { return nlohmann::json(share).dump(); }

std::string name_of(const StudentSpec& student, size_t k, size_t steps, const std::vector<int>& replaced) {
  if (student.stepwise.one_by_one) return cat("layer", replaced[0]);
  if (k + 1 < steps) return share_text(student.stepwise.shares[k]);
  return student.keep.kind == KeepSpec::Kind::kList ? "list" : keep_text(student.keep);
}

// Part k of n of a whole number; all parts together are the whole.
int64_t part_of(int64_t whole, int64_t k, int64_t n) { return whole * (k + 1) / n - whole * k / n; }

Result<StageSpec> share_of(const StageSpec& stage, int64_t k, int64_t n) {
  StageSpec out = stage;
  const int64_t tokens = stage.budget.tokens / stage.tokens_per_step();  // in steps
  out.budget.steps = part_of(stage.budget.steps, k, n);
  out.budget.tokens = part_of(tokens, k, n) * stage.tokens_per_step();
  out.budget.minutes /= double(n);
  out.budget.epochs /= double(n);
  const bool none = (stage.budget.steps > 0 && out.budget.steps == 0) || (stage.budget.tokens > 0 && out.budget.tokens == 0);
  if (none) {
    return invalid("recipe: stage '", stage.name, "' has ", stage.budget.steps > 0 ? stage.budget.steps : tokens, " steps for ", n,
                   " layers one by one; each needs at least one");
  }
  const auto steps = int64_t(BudgetMeter(out.budget, out.tokens_per_step()).total_steps());
  if (const auto never = never_reached(out, steps)) return invalid("recipe: ", never->message, ", its share for each layer one by one");
  return out;
}

}  // namespace

Result<std::vector<Step>> steps_of(const StudentSpec& student, const ModelConfig& pure) {
  std::vector<Step> steps;
  if (!student.stepwise.any()) return steps;
  const Heads kept = listed_attention(student.keep, pure.layers);
  RETORT_TRY(const ModelConfig last, hybrid_student(pure, kept));
  std::vector<int> replaced;
  for (int l = 0; l < pure.layers; ++l) {
    if (has_mixer(last.plan[size_t(l)])) replaced.push_back(l);
  }
  if (replaced.empty()) return invalid("recipe: student.stepwise: student.keep, ", keep_text(student.keep), ", replaces nothing");
  RETORT_TRY(const auto by_step, rising(student, replaced, pure.layers));
  std::vector<int> left = replaced;
  for (size_t k = 0; k < by_step.size(); ++k) {
    Step step{name_of(student, k, by_step.size(), by_step[k]), student.keep, {}, by_step[k], {}};
    for (int l : by_step[k]) std::erase(left, l);
    Heads now = kept;
    for (int l : left) now.emplace_back(l, -1);
    if (!left.empty()) {
      std::sort(now.begin(), now.end());
      step.keep = {};
      step.keep.kind = KeepSpec::Kind::kList;
      step.keep.list = now;
    }
    RETORT_TRY(const ModelConfig config, hybrid_student(pure, now));
    step.plan = config.plan;
    for (int l = 0; l < pure.layers; ++l) {
      if (!has_mixer(config.plan[size_t(l)])) step.attention.push_back(l);
    }
    steps.push_back(std::move(step));
  }
  return steps;
}

Result<Recipe> with_steps(const Recipe& recipe, const std::vector<Step>& steps) {
  Recipe out = recipe;
  if (steps.empty() || recipe.stages.empty()) return out;
  out.stages.erase(out.stages.begin());
  for (size_t k = 0; k < steps.size(); ++k) {
    StageSpec stage = recipe.stages.front();
    if (recipe.student.stepwise.one_by_one) {
      RETORT_TRY(stage, share_of(stage, int64_t(k), int64_t(steps.size())));
    }
    stage.name = cat(stage.name, "[", steps[k].name, "]");
    out.stages.insert(out.stages.begin() + std::ptrdiff_t(k), std::move(stage));
  }
  return out;
}

nlohmann::ordered_json steps_json(const std::vector<Step>& steps) {
  auto out = nlohmann::ordered_json::array();
  for (const Step& step : steps) {
    out.push_back({{"step", step.name}, {"replaces", numbers_text(step.replaced)}, {"attention", numbers_text(step.attention)}});
  }
  return out;
}

}  // namespace retort::train
