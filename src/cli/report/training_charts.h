// The steps of a run, stage by stage: curves of every loss, of the learning rate and of the speed, and losses layer by layer.
//
// Layer: cli. Thread-safe: pure functions.
#pragma once

#include <string>
#include <vector>

#include "cli/report/page.h"
#include "cli/report/plot.h"
#include "cli/report/run_results.h"

namespace retort::cli {

// Curves are thinned to a few hundred points, each the mean of a run of steps.
LinePlot loss_chart(const StageMetrics& stage);                     // the weighted sum too where there are several
std::vector<LinePlot> layer_charts(const StageMetrics& stage);      // one for each loss: the first step, one in the middle, the last
Cells stage_table(const std::vector<StageMetrics>& stages);

// The table, then the charts of every stage under its name, folded where there are many.
std::string training_html(const std::vector<StageMetrics>& stages);

}  // namespace retort::cli
