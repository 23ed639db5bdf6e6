// The tensors of a student that are its own: what some stage trains, and what is not the teacher's. Everything else it shares with the teacher.
//
// Layer: train. Not thread-safe.
#pragma once

#include <optional>
#include <vector>

#include "train/recipe.h"
#include "train/stages.h"
#include "train/torch_model.h"

namespace retort::train {

// Attention of which some stage trains something, or has LoRA on it.
bool attention_trains(const Recipe& recipe, const PartWeights& part);

class StudentLeaves {
 public:
  explicit StudentLeaves(const Recipe& recipe) : recipe_(recipe) {}

  struct Owns {
    bool body = false;       // what is not a mixer is not the teacher's
    bool attention = false;  // nor is attention
  };
  // Gives the student tensors of its own in place of the teacher's, and lists them.
  void take(TorchModel& student, Owns owns);

  std::vector<Leaf>& all() { return leaves_; }
  // Whether the stage changes some slice of it.
  bool trains(const StageSpec& stage, const Reached& reached, const Leaf& leaf) const;

  // All tensors that are the student's own or the teacher's attention, in the same order on all ranks.
  std::vector<at::Tensor> tensors(const TorchModel& student) const;
  // Where in tensors() a tensor of the student is, and from which element on. Unset: it is as in the teacher's files.
  struct Place {
    int64_t tensor, offset;
  };
  std::optional<Place> place_of(const TorchModel& student, const TensorSpec& spec) const;

 private:
  void take_part(int layer, PartWeights& part, Owns owns);

  const Recipe& recipe_;
  std::vector<Leaf> leaves_;
  std::vector<bool> attention_;  // which of them are attention's
};

}  // namespace retort::train
