// A step whose loss or gradient was not finite, so that it can be looked at: RUN/bad_step.json, written when such steps end a run.
//
// Layer: train, torch-free.
//
//   {"stage", "step", "run_step", "skipped_in_a_row", "lr", "loss", "grad_norm", "loss/<name>"..., "layers": {"attn_out": [...]},
//    "batches": [{"seed", "rows", "seq", "starts", "tokens", "labels"}]}
//
// step counts within the stage, from 1. Numbers that are not finite are "nan" (in layers also: it has no such loss), "inf" and "-inf". One batch for each of `accumulate`; seed
// is what positions were drawn by. Skipped steps change no weight, so the newest checkpoint or the student as it began is what the
// step met if no other step lies between.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "train/stage.h"

namespace retort::train {

constexpr const char* kBadStep = "bad_step.json";

struct BadStep {
  std::string stage;
  int64_t step = 0, run_step = 0;
  int skipped_in_a_row = 0;
  double lr = 0, loss = 0, grad_norm = 0;
  std::vector<std::pair<std::string, double>> parts;
  std::vector<LayerLoss> layers;
  std::vector<std::pair<uint64_t, Batch>> batches;   // with their seeds
};

Status write_bad_step(const std::string& folder, const BadStep& step);

}  // namespace retort::train
