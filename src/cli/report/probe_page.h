// Recall probes of several models side by side: the tables, the JSON document, and a page with curves.
//
// Layer: cli. Thread-safe: values and pure functions.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "cli/report/page.h"
#include "eval/position_perplexity.h"
#include "eval/probes/score.h"

namespace retort::cli {

struct ProbeCellResult {
  probes::Cell cell;
  int64_t pairs = 0;   // of its contexts, also where the task counts them itself; the mean, rounded
  int64_t tokens = 0;  // of its longest example
  std::vector<probes::Score> scores;  // one a model
};

struct ProbeResults {
  std::vector<std::string> models;
  std::vector<ProbeCellResult> cells;
  std::vector<std::vector<PositionBin>> positions;  // one list a model; empty: not measured
  int64_t windows = 0;                              // that they are means over
  nlohmann::ordered_json settings;
};

Cells probe_table(const ProbeResults& results);           // a row per cell, the models' accuracies beside each other
Cells probe_likelihood_table(const ProbeResults& results);
Cells position_table(const ProbeResults& results);        // empty when it was not measured

nlohmann::ordered_json probe_json(const ProbeResults& results);
std::string probe_page(const ProbeResults& results);

}  // namespace retort::cli
