// The last bits that a change takes from a value: in F32, log(exp(a)) and (w - 1) + 1 are not always a and w. What is missing is kept
// beside what a file says about itself, so that a model reads back bit for bit.
//
// Layer: io. Pure.
#pragma once

#include "io/export/layout.h"

namespace retort {

// Of the tensors that do not come back by themselves.
Result<Roundings> find_roundings(const ExportPlan& plan, const TensorValues& values);

// As JSON, {"model.layers.0.mixer.A_log": [0, -1, ..], ..}; a tensor that this model has not, or a list of another size, is an error.
Result<Roundings> read_roundings(const nlohmann::json& said, const ModelConfig& config, const std::string& where);

// Gives the values their last bits back.
void add_rounding(std::vector<float>& values, const std::vector<int32_t>& rounding);

}  // namespace retort
