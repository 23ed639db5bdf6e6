// The cache of logits that a stage names: what it must be made of.
//
// Layer: train, torch-free.
#pragma once

#include "train/logit_cache.h"
#include "train/stage_data.h"

namespace retort::train {

// Null when the stage names none. Its folder is only looked at: a cache of another teacher, text, order or size is an error here.
Result<std::shared_ptr<LogitCache>> open_cache(const Recipe& recipe, size_t stage, const StageData& data, const Encoders& encode, const Backend& backend);

// The same for every stage, before any work.
Status check_caches(const Recipe& recipe, const StageData& data, const Encoders& encode, const Backend& backend);

}  // namespace retort::train
