// matrix and attn_xent of one part of a layer (recipes.md 2.2), a few heads of one row at a time.
//
// Layer: train. Thread-safe over different objects.
#pragma once

#include <span>

#include "train/mixing_matrix.h"

namespace retort::train {

struct MatrixLoss {
  LossKind kind;
  LossForm form;
  double factor;       // of its gradient
  double value = 0;    // this part's share, unweighted
};

// Adds to the losses' values and, by way of own.backward(), to gradients. `rows` are `batch_rows` of equal length; means are over those and
// the teacher's heads. The teacher's matrices are made without a graph.
void add_matrix_losses(MixingMatrices& own, MixingMatrices& teacher, const Rows& rows, int batch_rows, std::span<MatrixLoss> losses);

}  // namespace retort::train
