// Losses against a few of a teacher's logits: the largest ones of every position, and the mass of the rest.
//
// Layer: train. Functions of tensors; any thread.
//
// K: the k tokens that the teacher finds likeliest at a position, p their probabilities, r = 1 - sum of p. The student's q are those of its whole
// softmax, s = 1 - sum of its q over K. All tokens outside K are one bin:
//   KL = sum_K p (log p - log q) + r (log r - log s),        cross-entropy = -sum_K p log q - r log s
// By the student's logits its gradient is q - p within K, and q (1 - r / s) outside: what the whole KL would have if the teacher spread r over the
// rest as the student spreads s. With K the vocabulary it is the whole KL; with fewer tokens never more than that.
#pragma once

#include "train/logit_cache.h"
#include "train/torch_model.h"

namespace retort::train {

// What the teacher says where it has these hidden states [n, D], after its last norm.
TopLogits top_logits(const at::Tensor& hidden, const at::Tensor& head, int top_k, double temperature);

struct SoftTargets {
  at::Tensor ids;          // [n, k] i64
  at::Tensor p, log_p;     // [n, k]
  at::Tensor rest;         // [n, 1]
};
// Of the positions [n] of a row.
SoftTargets targets_at(const TopLogits& logits, int top_k, const at::Tensor& positions);

struct SoftSums {
  double cross = 0, entropy = 0;   // over positions: cross-entropy, the teacher's entropy; KL is their difference
  at::Tensor gradient;             // [n, V], of the cross-entropies' sum by `logits`
};
// logits [n, V] f32 or f64, already divided by the temperature; mask [n, 1] or undefined: the share of a position.
SoftSums top_loss(const at::Tensor& logits, const SoftTargets& targets, const at::Tensor& mask);

}  // namespace retort::train
