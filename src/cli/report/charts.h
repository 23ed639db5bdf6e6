// Which charts the results of a run have; training_charts.h has those of its steps.
//
// Layer: cli.
#pragma once

#include <string>
#include <vector>

#include "cli/report/plot.h"
#include "cli/report/run_results.h"

namespace retort::cli {

BarPlot perplexity_chart(const RunResults& run);                    // as initialised, as trained, the teacher's line
std::vector<LinePlot> window_charts(const RunResults& run);         // ratio to the teacher against the window, one a corpus
BarPlot recall_chart(const RunResults& run);
LinePlot throughput_chart(const RunResults& run);
LinePlot state_chart(const RunResults& run);

// The picture of the README: quality, speed, memory.
std::string overview_svg(const RunResults& run);

}  // namespace retort::cli
