// What a run must remember between two steps, apart from tensors: as values, and as the state.json of a checkpoint.
//
// Layer: train, torch-free. Plain values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "model/config.h"
#include "train/metrics.h"

namespace retort::train {

struct StageReport {
  std::string name;
  int64_t steps = 0, skipped = 0, tokens = 0;
  double seconds = 0;
  double gemm_seconds = 0, compute_seconds = 0;
  double first_loss = 0, last_loss = 0;   // means over the first and the last tenth of the steps are in metrics.jsonl
  int64_t switched_at = -1;               // the stage's second teacher came after so many steps; -1: it did not
};

struct RunState {
  // Fixed for the run.
  nlohmann::json recipe;
  std::string teacher_hash, data_hash;
  std::vector<std::string> second_teachers;   // per stage of the recipe the hash of its second teacher; "": none
  std::string second_teacher(size_t stage) const { return stage < second_teachers.size() ? second_teachers[stage] : ""; }
  std::vector<int64_t> epoch_sizes;       // per stage (stage_data.h)
  std::vector<LayerPlan> plan;
  std::vector<std::string> kept;
  nlohmann::json start;                   // Backend's details
  nlohmann::json start_from;              // start_source(); null: the teacher, or a run of a version that did not note it
  nlohmann::json data;                    // data_files_json(); null: a run of a version that did not note them
  // Moves.
  int64_t stage = 0;                      // the stage that is running; as many as there are: all done
  StageReport current;                    // no name: the stage has not begun
  double pace = 0;
  int64_t skipped_in_a_row = 0;
  int64_t optimizer_steps = 0;
  nlohmann::json cursor;                  // of the text: where the stage stands, or where it will begin; null: at the beginning
  nlohmann::json watch;                   // what the stage watches its loss for
  int64_t run_step = 0, tokens = 0;
  double seconds = 0;                     // spent training
  MetricsPosition metrics;
  std::vector<StageReport> done;
};

nlohmann::json to_json(const RunState& state);
Result<RunState> run_state_from_json(const nlohmann::json& json, const std::string& where);

nlohmann::json stage_report_json(const StageReport& report);
nlohmann::json plan_json(const std::vector<LayerPlan>& plan);

// "align.lr: 0.0006 -> 0.001; seed: 1 -> 2": the first few places where two recipes differ; "" when they agree.
std::string recipe_difference(const nlohmann::json& before, const nlohmann::json& now);

}  // namespace retort::train
