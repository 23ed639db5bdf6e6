// The numbers' zeros, as pytablewriter 1.2 leaves them for the same cells.
#include <gtest/gtest.h>

#include <sstream>

#include "eval/tasks/results.h"

namespace retort::harness {
namespace {

// The Value and Stderr cells of a table of tasks with these numbers; a negative error is none.
std::vector<std::pair<std::string, std::string>> cells(const std::vector<std::pair<double, double>>& numbers) {
  Json results = {{"group_subtasks", Json::object()}};
  for (size_t i = 0; i < numbers.size(); ++i) {
    const std::string name = cat("task", i);
    results["results"][name] = {{"alias", name}, {"acc,none", numbers[i].first}, {"acc_stderr,none", numbers[i].second >= 0 ? Json(numbers[i].second) : Json("N/A")}};
    results["versions"][name] = 1.0;
    results["n-shot"][name] = 0;
    results["higher_is_better"][name] = {{"acc", true}};
  }
  std::istringstream table(results_table(results, "results"));
  std::vector<std::pair<std::string, std::string>> out;
  const auto stripped = [](std::string text) {
    text.erase(0, text.find_first_not_of(' '));
    return text.erase(text.find_last_not_of(' ') + 1);
  };
  for (std::string line; std::getline(table, line);) {
    std::vector<std::string> row;
    std::istringstream parts(line);
    for (std::string cell; std::getline(parts, cell, '|');) row.push_back(stripped(cell));
    if (row.size() > 9 && row[1].starts_with("task")) out.emplace_back(row[7], row[9]);
  }
  return out;
}

using Cells = std::vector<std::pair<std::string, std::string>>;

TEST(ResultsTable, DropsTheZerosThatNoNumberOfAColumnNeeds) {
  EXPECT_EQ(cells({{0.525, 0.08}, {0.475, 0.0792}}), (Cells{{"0.525", "0.0800"}, {"0.475", "0.0792"}}));
  EXPECT_EQ(cells({{0.5, 0.08}, {1, 0.1}}), (Cells{{"0.5", "0.08"}, {"1.0", "0.10"}}));
  EXPECT_EQ(cells({{0, 0}, {1, 0}}), (Cells{{"0", "0"}, {"1", "0"}}));
  EXPECT_EQ(cells({{123.4, 0.1234}, {0.125, 0.5}}), (Cells{{"123.400", "0.1234"}, {"0.125", "0.5000"}}));
}

TEST(ResultsTable, BesideNoNumberWholeOnesLoseTheirPoint) {
  EXPECT_EQ(cells({{0.5, 1}, {0.1234, 0.123}, {0.3, -1}}), (Cells{{"0.5000", "1"}, {"0.1234", "0.123"}, {"0.3000", "N/A"}}));
}

}  // namespace
}  // namespace retort::harness
