#include "train/stage_cache.h"

namespace retort::train {

Result<std::shared_ptr<LogitCache>> open_cache(const Recipe& recipe, size_t index, const StageData& data, const Encoders& encode, const Backend& backend) {
  const StageSpec& stage = recipe.stages[index];
  const LossSpec* loss = stage.find(LossKind::kLogits);
  if (!loss || loss->cache.empty()) return std::shared_ptr<LogitCache>();
  const int vocab_size = backend.tokens();
  const TrainingText& text = *data.of(index);
  // The order follows from the text, its weights, the seed, the stage's place among the stages and the shape of its batches.
  const nlohmann::json made_of = {
      {"teacher", backend.teacher_hash()}, {"tokenizer", encode.tokenizer}, {"vocab_size", vocab_size}, {"top_k", loss->top_k},
      {"temperature", loss->temperature}, {"data", text.train_hash()}, {"weights", text.weights()}, {"seed", recipe.seed}, {"stage", index},
      {"seq", stage.seq}, {"batch", stage.batch}, {"repeat_every", stage.repeat_every}};
  auto cache = LogitCache::open(loss->cache, made_of, {stage.seq, loss->top_k, vocab_size});
  if (!cache.ok()) return Error{cache.error().code, cat("stage '", stage.name, "': ", cache.error().message)};
  return cache;
}

Status check_caches(const Recipe& recipe, const StageData& data, const Encoders& encode, const Backend& backend) {
  const bool in_steps = recipe.student.stepwise.any() && !recipe.stages.empty();
  if (const LossSpec* first = in_steps ? recipe.stages[0].find(LossKind::kLogits) : nullptr; first && !first->cache.empty()) {
    return invalid("recipe: ", recipe.stages[0].name, ".loss.logits: a 'cache' holds one reading of the text from its beginning; with student.stepwise the stage runs several times");
  }
  for (size_t s = 0; s < recipe.stages.size(); ++s) RETORT_RETURN_IF_ERROR(open_cache(recipe, s, data, encode, backend));
  return {};
}

}  // namespace retort::train
