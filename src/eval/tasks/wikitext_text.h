// WikiText's tokenised pages as ordinary text.
//
// Layer: eval. Thread-safe: a pure function.
#pragma once

#include <string>
#include <string_view>

namespace retort::harness {

std::string wikitext_detokenized(std::string_view page);

}  // namespace retort::harness
