// Rows of tokens through one or several models, layer by layer for all rows at once, and back. The graph is cut between layers, so that a
// layer's weights are whole (shards.h) and its gradients exist only while it computes; with `checkpoint_activations` the layers' inputs are all
// that is kept for the way back, which then computes each layer a second time, to the same bits.
//
// Layer: train. Not thread-safe; rows are spread over the pool.
#pragma once

#include <span>

#include "train/shards.h"
#include "train/stages.h"

namespace retort::train {

class LayerPass {
 public:
  // All ranks pass the same models, whatever their rows are. The student trains, whichever models it stands beside.
  LayerPass(const StageContext& context, std::vector<const TorchModel*> models, bool checkpoint_activations);

  // `tokens` outlive the pass. Returns the row's number.
  size_t add(const TorchModel& model, std::span<const int32_t> tokens, Rows rows, const at::Tensor& positions);

  Status forward();
  // After the last norm, at the row's positions. [n, D]
  const at::Tensor& hidden(size_t row) const { return rows_[row].state; }
  // By row the gradient of hidden(), undefined for none; rows that do not train have none. Adds to the leaves' gradients.
  Status backward(std::vector<at::Tensor> gradients);

 private:
  struct Row {
    const TorchModel* model;
    std::span<const int32_t> tokens;
    Rows rows;
    at::Tensor positions, state;
    std::vector<at::Tensor> inputs, outputs;   // by step; outputs with their graphs
  };
  at::Tensor compute(const Row& row, int step, const at::Tensor& input) const;
  void forward(Row& row, int step) const;
  std::vector<at::Tensor> backward(Row& row, int step, at::Tensor& gradient) const;
  Result<Shards::Hold> weights(int step, const std::vector<const TorchModel*>& models) const;

  const StageContext& context_;
  std::vector<const TorchModel*> models_;
  bool recompute_;
  std::vector<std::vector<Leaf*>> leaves_;     // that train, by step of the student
  int first_ = 0;                              // the first step that has some
  std::vector<Row> rows_;
};

// Adds the rows' gradients of one leaf in their order, undefined ones being none, and with other ranks theirs: all ranks call it.
Status add_gradient(const StageContext& context, Leaf& leaf, std::span<const at::Tensor> of_rows);
// The same for the student's head, where it trains: its own share of the gradient, which does not pass through hidden states.
Status add_head_gradient(const StageContext& context, std::span<const at::Tensor> of_rows);
// Keeps tensors whole (shards.h); with one process they are.
Result<Shards::Hold> gather(const StageContext& context, const std::vector<at::Tensor>& tensors);
// The same for models' heads.
Result<Shards::Hold> gather_heads(const StageContext& context, const std::vector<const TorchModel*>& models);

}  // namespace retort::train
