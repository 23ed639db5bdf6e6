#include "train/stage_data.h"

#include <algorithm>
#include <cmath>

#include "base/hash.h"
#include "train/preference_data.h"
#include "train/schedule.h"

namespace retort::train {
namespace {

Status check_pairs(const StageSpec& stage, const TrainingText& text) {
  const auto& documents = text.train();
  if (!stage.compares_pairs() || std::any_of(documents.begin(), documents.end(), [](const Document& d) { return d.is_pair(); })) return {};
  return invalid("recipe: stage '", stage.name, "' compares answers, but no line of ", stage.data.empty() ? "the" : "its",
                 " data has \"prompt\", \"chosen\" and \"rejected\"");
}

StreamOptions stream_options(const Recipe& recipe, size_t index, int vocab_size) {
  const StageSpec& stage = recipe.stages[index];
  return {stage.batch, stage.seq, mix_seed(recipe.seed, 1, uint64_t(index)), stage.repeat_every, vocab_size};
}

}  // namespace

Result<StageData> StageData::load(const Recipe& recipe) {
  StageData out;
  RETORT_TRY(auto text, TrainingText::load(recipe.data.train, recipe.data.held_out));
  out.recipe_ = std::make_shared<const TrainingText>(std::move(text));
  uint64_t hash = fnv1a(out.recipe_->hash());
  bool own = false;
  for (size_t s = 0; s < recipe.stages.size(); ++s) {
    const StageSpec& stage = recipe.stages[s];
    auto found = stage.data.empty() || stage.data == recipe.data.train ? out.recipe_ : nullptr;
    for (size_t other = 0; other < s && !found; ++other) {
      if (recipe.stages[other].data == stage.data) found = out.stages_[other];
    }
    if (!found) {
      RETORT_TRY(auto read, TrainingText::load_own(stage.data, *out.recipe_));
      found = std::make_shared<const TrainingText>(std::move(read));
    }
    RETORT_RETURN_IF_ERROR(check_pairs(stage, *found));
    own = own || found != out.recipe_;
    hash = fnv1a(cat(s, found->hash()), hash);
    out.stages_.push_back(std::move(found));
  }
  out.hash_ = own ? hex(hash) : out.recipe_->hash();
  return out;
}

std::unique_ptr<BatchStream> open_stream(const Recipe& recipe, size_t index, const StageData& data, const Encoders& encode, int vocab_size) {
  const StageSpec& stage = recipe.stages[index];
  const StreamOptions options = stream_options(recipe, index, vocab_size);
  if (!stage.compares_pairs()) return std::make_unique<TokenStream>(data.of(index), encode, options);
  const int max_prompt = stage.max_prompt > 0 ? stage.max_prompt : stage.seq / 2;
  return std::make_unique<PairStream>(data.of(index), encode.chat, PairOptions{stage.batch, stage.seq, max_prompt, options.seed, vocab_size});
}

Result<std::vector<int64_t>> epoch_sizes(const Recipe& recipe, const StageData& data, const Encoders& encode, int vocab_size, ThreadPool& pool) {
  std::vector<int64_t> out(recipe.stages.size(), 0);
  for (size_t s = 0; s < out.size(); ++s) {
    const StageSpec& stage = recipe.stages[s];
    if (stage.budget.epochs <= 0) continue;
    // The same text in rows of the same length has been counted.
    for (size_t other = 0; other < s && out[s] == 0; ++other) {
      const StageSpec& before = recipe.stages[other];
      const bool same = data.of(other) == data.of(s) && before.seq == stage.seq && before.compares_pairs() == stage.compares_pairs();
      if (same) out[s] = out[other];
    }
    const auto& documents = data.of(s)->train();
    if (stage.compares_pairs()) {
      out[s] = std::count_if(documents.begin(), documents.end(), [](const Document& d) { return d.is_pair(); });
    } else if (out[s] == 0) {
      RETORT_TRY(out[s], TokenStream(data.of(s), encode, stream_options(recipe, s, vocab_size)).epoch_tokens(pool));
    }
    RETORT_RETURN_IF_ERROR(budget_of(stage, out[s]));
  }
  return out;
}

Result<Budget> budget_of(const StageSpec& stage, int64_t epoch_size) {
  Budget budget = stage.budget;
  if (budget.epochs <= 0) return budget;
  const int64_t per_step = stage.compares_pairs() ? int64_t(stage.batch) * stage.accumulate : stage.tokens_per_step();
  const auto steps = int64_t(std::min(1e15, std::max(1.0, std::ceil(budget.epochs * double(epoch_size) / double(per_step)))));
  budget.steps = budget.steps > 0 ? std::min(budget.steps, steps) : steps;
  const auto total = int64_t(BudgetMeter(budget, stage.tokens_per_step()).total_steps());
  if (const auto never = never_reached(stage, total)) return invalid("recipe: ", never->message);
  return budget;
}

}  // namespace retort::train
