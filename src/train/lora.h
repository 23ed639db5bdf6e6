// LoRA: matrices stay as they are, and what trains is a low-rank update of each ("LoRA", Hu et al. 2021, section 4.1).
//
//   y = W x + (alpha / r) B A x     A [r, in] uniform within 1 / sqrt(in) (Kaiming's with a = sqrt 5, as in the released code), B [out, r] zero
//
// The student computes with W' = W + (alpha / r) B A, remade from A and B before every step, so every loss and every mixer can have it; of the
// gradient G by W', A gets (alpha / r) B^T G and B (alpha / r) G A^T. At the end W' is the student's matrix: there is no trace of A and B.
//
// Layer: train.
#pragma once

#include "train/lora_targets.h"
#include "train/stages.h"

namespace retort::train {

// A stage of any kind without LoRA.
std::unique_ptr<StageRunner> make_stage_runner(const StageSpec& stage, StageContext context);

// `bases` are the student's tensors that the targets are in, and live as long as the stage; `context` has what trains itself beside them.
std::unique_ptr<StageRunner> make_lora_stage(const StageSpec& stage, const std::vector<LoraTarget>& targets, const std::vector<Leaf*>& bases,
                                             StageContext context, uint64_t seed);

}  // namespace retort::train
