// The folder of another student that a student starts from: who it is, for those who come after, and for a run that goes on.
//
// Layer: train, torch-free.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace retort::train {

// {"hash": of the weights' bytes, "config": sizes, rope and parts}. Reads all weights.
Result<nlohmann::json> start_source(const std::string& folder);

// An error that says what differs first where `now` is not what start_source() was `before`. Null before: a run of a version that did not note it.
Status same_start(const std::string& folder, const nlohmann::json& before, const nlohmann::json& now);

}  // namespace retort::train
