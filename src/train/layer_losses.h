// The losses of a layer-wise stage for one block of layers, and their gradients (recipes.md 2.2). A block is one layer, or the `gap`
// consecutive ones that `hidden` runs through; blocks are independent.
//
//   attn_out    the mixers' output, or at the heads what the output projection takes, each layer fed with the teacher's input of that layer
//   matrix      mean over rows and heads of |M - A|, M the student's mixing matrix, A the teacher's attention matrix; or mean square
//   attn_xent   -mean over heads and tokens of sum_s A log max(M, 1e-12)
//   hidden      the block's output, residuals and MLPs included, fed with the teacher's hidden state before the block
//
// A row of the batch that holds several sequences has one matrix, with a block for each; attention that stays and does not train counts as
// equal. Layer: train. Thread-safe: blocks may run at the same time, but for those of several ranks, which speak to
// one another.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "train/stages.h"

namespace retort::train {

// What the teacher's layer met, over all rows of a batch. [T, D] each; undefined where no loss needs it.
struct LayerRecord {
  at::Tensor residual, input, output;
};

// Which of a record's tensors are needed.
struct RecordNeeds {
  bool residual = false, input = false, output = false;
};

struct Block {
  const StageSpec& stage;
  const TorchModel &teacher, &student;
  const Rows& rows;                              // of the whole batch
  int batch_rows = 1;                            // of this rank
  int first = 0, layers = 1;
  std::span<const std::vector<Leaf*>> leaves;    // that train, by layer of the block
  std::span<const LayerRecord> records;          // by layer of the block
  double scale = 1;                              // of the loss
  const StageContext* ranks = nullptr;           // null: one process. Otherwise the records are this rank's rows of the batch
};

// By loss of the stage, not weighted; none where the layer has no such loss.
using LayerValues = std::vector<std::optional<double>>;

RecordNeeds record_needs(const StageSpec& stage, const TorchModel& teacher, const TorchModel& student, int layer);

// Adds to the leaves' gradients. By layer of the block; of several ranks each one's share of the values.
Result<std::vector<LayerValues>> block_step(const Block& block);

}  // namespace retort::train
