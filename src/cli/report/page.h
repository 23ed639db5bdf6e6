// What every HTML page of Retort is made of: one file that stands alone, no scripts, no outside references, light and dark, wide and
// narrow.
//
// Layer: cli. Thread-safe: pure functions.
#pragma once

#include <string>
#include <vector>

namespace retort::cli {

// First row the head, first column what the row is about.
using Cells = std::vector<std::vector<std::string>>;

// The document around a body; the title is escaped, the body is HTML.
std::string page(const std::string& title, const std::string& body);
// A heading, a quiet line below it unless that is empty, and HTML. Empty when the HTML is.
std::string section(const std::string& title, const std::string& note, const std::string& body);
// Drawings in a grid, wide ones across it; empty ones are left out.
std::string charts(const std::vector<std::string>& drawings);
// Columns of numbers to the right, of words to the left. The cells are escaped.
std::string html_table(const Cells& rows);

}  // namespace retort::cli
