// The second teacher of a stage: a model of any width and depth that has the first one's tokens.
//
// Layer: train, torch-free. Opening reads no weights.
#pragma once

#include <string>

#include "base/error.h"
#include "io/model_files.h"

namespace retort::train {

// Of all weights' bytes, in the order of their names: who a teacher is. Reads them all.
Result<std::string> hash_weights(const WeightStore& store);

// How many tokens the model's tokenizer knows; columns of logits behind them are padding. Without a tokenizer: all are tokens.
int token_count(const ModelFiles& files);

// Errors: not a softmax-attention model; a context below `seq`; another number of tokens, or another token somewhere, which is named.
Result<ModelFiles> open_second_teacher(const ModelFiles& first, const std::string& path, int seq);

}  // namespace retort::train
