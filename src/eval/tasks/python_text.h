// Python's string operations that the harness's prompts are made with. All text is valid UTF-8.
//
// Layer: eval. Thread-safe: values only.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace retort::harness {

// str.isspace, which is also what \s matches in a regular expression.
bool is_python_space(char32_t c);
size_t trailing_space_bytes(std::string_view text);
std::string_view strip(std::string_view text);
std::string_view strip_left(std::string_view text);
// First character in title case, all others lower.
std::string capitalize(std::string_view text);
// One pass from the left, as str.replace.
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);
// len(re.split(r"\s+", text)): empty pieces at the ends count.
int64_t count_words(std::string_view text);

// The value of a Python literal of strings, numbers, lists, tuples, dictionaries, True, False and None (ast.literal_eval). `where`
// starts error messages, which name the byte. Nesting is bounded.
Result<nlohmann::ordered_json> python_literal(const std::string& where, std::string_view text);

}  // namespace retort::harness
