// The text of every stage of a run: the recipe's, or its own.
//
// Layer: train, torch-free. Immutable after loading. Stages that name the same files share what was read.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "train/data.h"
#include "train/recipe.h"

namespace retort::train {

class StageData {
 public:
  // Reads everything. A stage that compares pairs and finds none is an error.
  static Result<StageData> load(const Recipe& recipe);

  // What is held out, and what a student starts from, is the recipe's.
  const std::shared_ptr<const TrainingText>& recipe() const { return recipe_; }
  const std::shared_ptr<const TrainingText>& of(size_t stage) const { return stages_[stage]; }
  // Of all of it: a resumed run must find the same.
  const std::string& hash() const { return hash_; }

 private:
  std::shared_ptr<const TrainingText> recipe_;
  std::vector<std::shared_ptr<const TrainingText>> stages_;
  std::string hash_;
};

// Where the batches of a stage come from: the same for the same recipe and text.
std::unique_ptr<BatchStream> open_stream(const Recipe& recipe, size_t stage, const StageData& data, const Encoders& encode, int vocab_size);

// `epochs` in steps. The size of a stage's data is that of reading it once: tokens of its rows (TokenStream::epoch_tokens), or pairs. 0: the stage has
// no `epochs`.
Result<std::vector<int64_t>> epoch_sizes(const Recipe& recipe, const StageData& data, const Encoders& encode, int vocab_size, ThreadPool& pool);
// The budget with its epochs as steps, rounded up: every document has then begun as often. A warm-up that is longer than the stage is an error.
Result<Budget> budget_of(const StageSpec& stage, int64_t epoch_size);

}  // namespace retort::train
