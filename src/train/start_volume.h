// How loud a student's recurrence starts: no louder than what helps it to give what the attention gave that it replaces.
//
// Keys and queries that attention's softmax was made for give sums of any size, and the magnitude that a norm puts back says nothing of
// what W_O makes of a head's new directions. So the fresh part is run on text, and where it is further from the teacher with its recurrence
// than without, its heads are turned down: each head's volume c_h in [least, 1] is that of the least squares
//
//   min_c | sum_h c_h F_h W_h - R |^2     F_h: the head's recurrence as read out;  W_h: its columns of W_O;  R: what is missing without it
//
// with `least` such that no head falls silent, for a silent one would not learn. The volume of a part joined with a window is its join's
// bias; that of a part alone is the tensor that its table starts by the teacher's head RMS (a norm's weight, a gate's bias; one c where the
// heads share it), and W_O where there is none.
//
// Layer: train.
#pragma once

#include <span>
#include <vector>

#include "train/torch_model.h"

namespace retort::train {

// A head of a part that was too loud keeps at least this share of its part of R, as a ratio of norms.
inline constexpr double kLeastVolume = 0.1;

// Turns the part down where it is too loud. inputs[i], the teacher's layer's normed inputs [T, D], are rows[i].
void settle_volume(const PartWeights& attention, std::span<const at::Tensor> inputs, std::span<const Rows> rows, Numeric numeric, PartWeights& part);

// The number whose SiLU is y >= 0.
double inverse_silu(double y);

}  // namespace retort::train
