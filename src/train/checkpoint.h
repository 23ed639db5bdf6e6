// A run as it stood after some step, in one folder: RUN/checkpoints/step-N/{state.json, tensors.safetensors}.
//
// Layer: train, torch-free. Not thread-safe. A checkpoint is there whole or not at all; the newest two are kept. It does not say how many ranks
// wrote it: each tensor is whole in the file, and of the ranks each has a piece in memory, in their order. Files are rank 0's.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/safetensors.h"
#include "train/optimizer.h"

namespace retort::train {

struct Checkpoint {
  std::string folder;                     // for messages
  nlohmann::json state;
  std::map<std::string, SafeTensor> tensors;
  std::shared_ptr<const SafetensorsFile> file;

  bool others = false;                    // an older one is there too
  // The error of one that cannot be used, with what can be done about it.
  Error damaged(Error error) const;

  // Fills every tensor by its name; one that is missing or of another size is an error. All ranks call it, with the same names; those but rank 0
  // need no file.
  Status load(const std::vector<StateTensor>& into, ProcessGroup& group = one_process()) const;
};

// `run_step` names it. All ranks call it.
Status save_checkpoint(const std::string& run, int64_t run_step, const nlohmann::json& state, const std::vector<StateTensor>& tensors,
                       ProcessGroup& group = one_process());

// The newest one that can be read; unset when there is none.
Result<std::optional<Checkpoint>> newest_checkpoint(const std::string& run);

void remove_checkpoints(const std::string& run);

}  // namespace retort::train
