// Python's string operations on text that knows which of its bytes are a user's.
//
// Layer: io. Thread-safe: no state.
#pragma once

#include <string>
#include <vector>

#include "io/jinja_value.h"

namespace retort::jinja {

// Removes the characters of `chars`, or whitespace when it is null.
Text strip(const Text& text, const std::string* chars, bool left, bool right);
// At most `limit` cuts when limit >= 0. An empty separator cuts at runs of whitespace.
std::vector<Text> split(const Text& text, const std::string& separator, int64_t limit, bool from_right);
std::vector<Text> split_lines(const Text& text, bool keep_ends);
Text replace(const Text& text, const std::string& from, const Text& to, int64_t limit, size_t max_size);
Text upper(const Text& text);
Text lower(const Text& text);
Text capitalize(const Text& text);
Text title(const Text& text);        // str.title
Text title_words(const Text& text);  // the filter: a word is what whitespace or an opening bracket begins
Text indent_lines(const Text& text, const std::string& pad, bool first, bool blank, size_t max_size);

}  // namespace retort::jinja
