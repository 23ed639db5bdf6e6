// A student beside its teacher on benchmarks: the table, the JSON, and a page with bars.
//
// Layer: cli. Thread-safe: pure functions.
#pragma once

#include <span>
#include <string>

#include <nlohmann/json.hpp>

#include "cli/report/page.h"
#include "eval/tasks/comparison.h"

namespace retort::cli {

Cells comparison_table(std::span<const harness::ComparisonRow> rows);
nlohmann::ordered_json comparison_json(std::span<const harness::ComparisonRow> rows);
// `settings`: a line about how both were measured.
std::string comparison_page(const std::string& student, const std::string& teacher, const std::string& settings,
                            std::span<const harness::ComparisonRow> rows);

// A number and its error, as tables show them, and as JSON.
std::string with_error(const harness::Estimate& estimate, int digits);
nlohmann::ordered_json estimate_json(const harness::Estimate& estimate);

}  // namespace retort::cli
