// A run as one HTML page that stands alone: no scripts, no outside references, light and dark, wide and narrow.
//
// Layer: cli.
#pragma once

#include <string>
#include <vector>

#include "cli/report/run_results.h"

namespace retort::cli {

std::string report_html(const RunResults& run);

// The table that the page, the terminal and the README show: first row the head.
std::vector<std::vector<std::string>> summary_table(const RunResults& run);

}  // namespace retort::cli
