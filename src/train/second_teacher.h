// The second teacher of a stage: a model of any width and depth that has the first one's tokens.
//
// Layer: train, torch-free. Opening it reads no weights; its hash reads them all.
#pragma once

#include <string>

#include "base/error.h"
#include "io/model_files.h"
#include "train/stage.h"

namespace retort::train {

// Of all weights' bytes, in the order of their names: who a teacher is. Reads them all.
Result<std::string> hash_weights(const WeightStore& store);

// Errors: not a softmax-attention model; a context below `seq`; another number of tokens, or another token somewhere, which is named.
Result<ModelFiles> open_second_teacher(const ModelFiles& first, const std::string& path, int seq);

// The hash of the stage's second teacher, which fits the first; "": it has none.
Result<std::string> second_teacher_hash(Backend& backend, const StageSpec& stage);
// An error where its hash is no longer what it was `before`.
Status same_second_teacher(const StageSpec& stage, const std::string& now, const std::string& before);
// Opens it to be loaded: it still fits the first and is still what it was `before`.
Result<ModelFiles> open_same_second_teacher(const ModelFiles& first, const StageSpec& stage, const std::string& before);

}  // namespace retort::train
