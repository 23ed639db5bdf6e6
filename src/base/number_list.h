// Lists of whole numbers as people write them: "0-3,7".
//
// Layer: base. Pure.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace retort {

// "0-3,7" -> 0, 1, 2, 3, 7, in the order in which they stand there; blanks do not count. Nothing where the text is no such list, or a
// range falls. Numbers have five digits at most.
std::optional<std::vector<int>> parse_number_list(const std::string& text);

}  // namespace retort
