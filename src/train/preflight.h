// What a run will need and what cannot work, known before anything is computed: `retort distill` asks here, with --dry-run or without.
//
// Layer: train, torch-free. Nothing is changed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/error.h"
#include "model/config.h"
#include "train/process_group.h"
#include "train/recipe.h"
#include "train/stage.h"

namespace retort::train {

// Rows longer than the teacher's context would teach what it never knew.
Status check_rows(const Recipe& recipe, const ModelConfig& teacher);
// A line for every stage whose rows are no longer than a window of the student with its sinks: no token leaves it, and what stands behind it
// sees nothing. No error, for another stage may have longer rows. `pure` is pure_student().
std::vector<std::string> short_rows(const Recipe& recipe, const ModelConfig& pure);

// Every rank has as many rows of a batch as the others.
Status check_ranks(const Recipe& recipe, const ProcessGroup& group);
// All ranks have opened the same teacher (its weights, how they are to be read, its tokenizer's fingerprint) and the same text (its hash).
// `teacher` is the path, for the message.
Status same_inputs(ProcessGroup& group, const Backend& backend, const std::string& teacher, const std::string& tokenizer, const std::string& text);

struct Trained {
  int64_t tensors = 0, parameters = 0;
};
// What a stage trains of a student, as far as its losses reach.
Trained trained(const StageSpec& stage, const ModelConfig& student);

struct DiskNeeds {
  int64_t checkpoint = 0;                        // bytes of the largest one
  int64_t student = 0;                           // of the written student, and of the one before training if that is written
  int checkpoints = 0;                           // there at once: two that are kept, and the next one being written
  int64_t most() const { return checkpoints * checkpoint + student; }
  // Less than this and the run cannot come to its end: one checkpoint that the next one replaces.
  int64_t least() const { return (checkpoints > 0 ? 2 : 0) * checkpoint + student; }
};
DiskNeeds disk_needs(const Recipe& recipe, const ModelConfig& student);

// Free bytes where `folder` is, or will be; -1 when the system does not say.
int64_t free_bytes(const std::string& folder);
// `folder` can be made or written to, and its disk holds what the run cannot do without.
Status check_room(const Recipe& recipe, const ModelConfig& student, const std::string& folder);

}  // namespace retort::train
