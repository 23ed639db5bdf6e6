// What a run tells about every step: a line of metrics.jsonl and TensorBoard scalars.
//
// Layer: train, torch-free. Not thread-safe.
//
//   {"stage","step","steps","loss","loss/<name>"...,"<measure>"...,"lr","grad_norm",["teacher",]"tokens","tokens_per_s","time","gemm_share","layers"}
//
// step and steps count within the stage; tokens over the run; time is seconds spent training over the run. Of layer-wise stages some lines
// have "layers": {"attn_out": [0.12, null, ...]}, every loss layer by layer, with four digits.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "train/stage.h"
#include "train/tensorboard.h"

namespace retort::train {

struct MetricsRow {
  std::string stage;
  int64_t step = 0;          // from 1
  int64_t steps = 0;         // planned
  int64_t run_step = 0;      // over all stages: TensorBoard's axis
  double loss = 0;
  std::vector<std::pair<std::string, double>> parts, measures;   // losses, and means that are none
  double lr = 0, grad_norm = 0;
  std::string teacher;       // which of a stage's two teachers; empty: it has one
  int64_t tokens = 0;
  double tokens_per_s = 0, time = 0, gemm_share = 0;
  std::vector<LayerLoss> layers;   // empty: not of this step
};

struct MetricsPosition {
  uint64_t lines = 0, events = 0;  // bytes
};

class MetricsLog {
 public:
  static Result<MetricsLog> open(const std::string& folder, MetricsPosition keep);
  Status add(const MetricsRow& row);
  MetricsPosition position() const { return {lines_.size(), events_.size()}; }

 private:
  MetricsLog(AppendFile lines, EventWriter events) : lines_(std::move(lines)), events_(std::move(events)) {}
  AppendFile lines_;
  EventWriter events_;
};

}  // namespace retort::train
