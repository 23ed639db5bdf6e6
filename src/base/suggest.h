// "did you mean": the nearest of a few known names, for errors about unknown flags, keys, mixers and commands.
//
// Layer: base. Thread-safe: values only.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace retort {

// The known name closest to `given` by edit distance, or "" when nothing is near enough to be worth a guess.
std::string nearest_name(std::string_view given, const std::vector<std::string>& known);

// "; did you mean 'x'?" when there is a near name, otherwise "; known: a, b, c".
std::string suggestion(std::string_view given, const std::vector<std::string>& known);

}  // namespace retort
