// What a student's fingerprint was taken of, kept beside it in config.json as "fingerprint_of", so that a configuration which no longer
// has that fingerprint can be told what differs first.
//
// Layer: io. Pure functions. The record is in the words of config.json: the sizes, the rope and the parts of every layer.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace retort {

// The first difference between two records: sizes and rope in the order of config.json, then layer by layer. `taken` may be any object.
// "layer 3, part 0 (gla): field 'retention' is 0.9, the fingerprint was taken with 0.99"; empty when there is none.
std::string first_difference(const nlohmann::json& taken, const nlohmann::json& now);

}  // namespace retort
