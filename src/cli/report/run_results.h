// A finished or running folder of `retort distill`, as the report reads it: results.json of a plan, train.json or recipe.json of a single
// run, metrics.jsonl, matrices.json, whatever of them there is. Fields that are absent stay empty; fields of a wrong type are errors that name the file and the field.
//
// Layer: cli. Plain values.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "cli/report/heat_map.h"

namespace retort::cli {

struct WindowPerplexity {
  std::string corpus;
  double window = 0;
  std::optional<double> perplexity, ratio;
};

struct ContextThroughput {
  double context = 0;
  std::optional<double> tokens_per_second, state_bytes;
};

struct ModelResult {
  std::string name, mixers, kept, sample;
  std::optional<double> perplexity_init, perplexity, perplexity_ratio, copy_perplexity, tokens_trained, seconds;
  std::vector<WindowPerplexity> perplexities;
  std::vector<ContextThroughput> throughput;
};

struct MetricPoint {
  double step = 0, tokens = 0, loss = 0;
  std::optional<double> lr, tokens_per_s;
  std::map<std::string, double> losses, measures;      // "logits"; of dpo "accuracy" and the like
};

// Losses of a step layer by layer; unset where a layer has none.
struct LayerPoint {
  double step = 0;
  std::map<std::string, std::vector<std::optional<double>>> losses;
};

struct StageMetrics {
  std::string name;
  std::vector<MetricPoint> points;
  std::vector<LayerPoint> layers;
  std::vector<double> skipped;                         // steps whose loss was not finite
};

struct RunResults {
  std::string folder;
  ModelResult teacher;
  std::vector<ModelResult> students;
  std::string prompt;
  nlohmann::ordered_json machine, recipe, provenance;  // shown as they are
  std::vector<StageMetrics> stages;                    // in order of first appearance
  std::vector<HeadPictures> matrices;                  // of a run, or of every run of a plan that has them
  std::string name;                                    // of a single run's recipe
  bool finished = false;                               // results.json is there
  bool trained = false;                                // it or train.json is there
};

// Fails when the folder has neither file, or when one of them is not what it should be.
Result<RunResults> read_run(const std::string& folder);

}  // namespace retort::cli
