// The mixing matrix of a part, differentiable: what its values are multiplied by (recipes.md 2.1, mixers.md 1).
//
//   y_t = sum over s <= t of M[t, s] v_s     per query head; v what enters the state (after its convolution and activation)
//
// Of a recurrence it includes the decay, the normaliser and the skip; of a part with an exact window both sides as they are joined, where
// v_s is the value that the side in question takes of token s; of attention it is the softmax. What comes after (norms, output gates, the
// bonus of RWKV-7, MetaLA's augmentation, W_o) is no part of it. A decay per cell (Mamba-1) has a matrix per channel and is refused: mixes_by_matrix() in reach.h.
//
// How: the recurrence runs on the rows of the identity in place of values, so that every mixer has its matrix without a word of its own.
// In this form T tokens take T times the work of one value dimension, T^2 K in all.
//
// Layer: train. Not thread-safe. Memory is that of the matrices in hand: a few of them, one sequence's, are made at a time, and backward()
// frees each at once; the projections' graph is kept for one pass at the end.
#pragma once

#include <vector>

#include "train/torch_model.h"

namespace retort::train {

class MixingMatrices {
 public:
  // x[T, D]: what the mixer is fed. Everything is copied that is needed later.
  MixingMatrices(const PartWeights& part, const at::Tensor& x, const Rows& rows, Numeric numeric);

  int heads() const { return shape_.heads; }
  // Query heads that share keys, or a state. A recurrence's are asked for together; attention's may be asked for one by one.
  int together() const { return together_; }
  // The number in the layer of query head h.
  int layer_head(int h) const { return shape_.layer_head(h); }

  // Of query heads [head, head + count), which share keys, for one sequence: [T, count, T].
  at::Tensor of(int head, int count, const Sequence& sequence);

  // Adds to the gradients of what the matrices are made of; the graph behind `loss` goes. A loss that depends on nothing trained is no error.
  void backward(const at::Tensor& loss);
  // What backward() has come to: outputs of the projections' graph and their gradients, for torch::autograd::grad.
  void append_gradients(torch::autograd::variable_list& outputs, torch::autograd::variable_list& gradients) const;

 private:
  enum Input { kQ, kK, kLogDecay, kErase, kEraseKey, kLocalQ, kLocalK, kGate, kSkip, kGamma, kRho, kInputs };
  struct Source {
    at::Tensor whole, cut, gradient;  // with its graph; a leaf of the same values; undefined: none yet
  };

  void set(Input input, const at::Tensor& value);
  // Columns of one head of `heads`, or of `count` of them, in the sequence's rows; undefined where the input is absent.
  at::Tensor slice(Input input, const Sequence& sequence, int heads, int head, int count) const;
  at::Tensor vector(Input input, int head, int count) const;
  Normalised<TorchOps::Tensor> near(int head, int count, const Sequence& sequence) const;
  Normalised<TorchOps::Tensor> far(TorchOps& ops, int head, int count, const Sequence& sequence) const;

  PartShape shape_;
  Numeric numeric_;
  bool recurrent_ = false;
  RecurrenceSpec spec_;
  int together_ = 1;
  Source sources_[kInputs];
  at::Tensor offset_;                 // a constant in backward passes
};

}  // namespace retort::train
