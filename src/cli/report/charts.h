// Which charts a run has.
//
// Layer: cli.
#pragma once

#include <string>
#include <vector>

#include "cli/report/plot.h"
#include "cli/report/run_results.h"

namespace retort::cli {

std::vector<LinePlot> loss_charts(const RunResults& run);           // one a stage, thinned to a few hundred points
BarPlot perplexity_chart(const RunResults& run);                    // as initialised, as trained, the teacher's line
std::vector<LinePlot> window_charts(const RunResults& run);         // ratio to the teacher against the window, one a corpus
BarPlot recall_chart(const RunResults& run);
LinePlot throughput_chart(const RunResults& run);
LinePlot state_chart(const RunResults& run);

// The picture of the README: quality, speed, memory.
std::string overview_svg(const RunResults& run);

}  // namespace retort::cli
