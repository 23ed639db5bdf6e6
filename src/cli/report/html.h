// A run as one HTML page that stands alone: no scripts, no outside references, light and dark, wide and narrow.
//
// Layer: cli.
#pragma once

#include <string>

#include "cli/report/page.h"
#include "cli/report/run_results.h"

namespace retort::cli {

std::string report_html(const RunResults& run);

// The tables that the page, the terminal and the README show: first row the head, first column the model.
Cells quality_table(const RunResults& run);
Cells speed_table(const RunResults& run);
Cells summary_table(const RunResults& run);  // both, side by side
Cells window_table(const RunResults& run);   // every corpus at every window; empty when none was measured

}  // namespace retort::cli
