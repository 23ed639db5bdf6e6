// Results on standard output: a JSON document with --json, aligned tables for people otherwise.
//
// Layer: cli. Not thread-safe.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace retort::cli {

// One document, indented, invalid UTF-8 replaced (model names come from files).
void print_json(const nlohmann::ordered_json& document);

// Columns as wide as their widest cell. A column whose cells below the head all start with a digit is right-aligned.
class Table {
 public:
  explicit Table(std::vector<std::string> head) : head_(std::move(head)) {}
  void row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  std::string text() const;
  void print() const;

 private:
  std::vector<std::string> head_;
  std::vector<std::vector<std::string>> rows_;
};

// A table of its rows, the first one the head.
std::string table_text(const std::vector<std::vector<std::string>>& rows);

// How many columns a terminal uses for UTF-8 text without wide characters: code points.
size_t display_width(std::string_view text);

}  // namespace retort::cli
