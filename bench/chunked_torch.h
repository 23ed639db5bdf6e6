// The one recurrence (mixers/mixer.h) as one would write it with LibTorch's operations: everything inside chunks in products batched
// over heads and chunks, and one small step per chunk on [heads, K, V] for the states. Autograd does the backward pass; slices are
// taken with unbind, whose backward is one stack, and not with select, whose backward clears the whole tensor each time. The peer of
// train_recurrence_bench.cc.
//
// Scores under a decay are products of q exp(lam) and k exp(-lam): fast, and only right while a chunk's log-decays add up to no less
// than about -80. (The fused kernels take this way too while they can, and another when they cannot.) The safe form, right at any decay, takes
// exp(lam_t - lam_s) of every pair of tokens, and of every key where decays have a number for each.
#pragma once

#include <torch/torch.h>

#include "mixers/mixer.h"

namespace retort::bench {

// Rows [T, H*width]; log_decay, a and b where the spec has them.
struct TorchInputs {
  at::Tensor q, k, v, log_decay{}, a{}, b{};
};

struct TorchForm {
  int64_t chunk = 64;   // T is a multiple of it
  bool narrow = false;  // products of bf16 numbers instead of f32
  bool safe = false;    // at any decay; not with `narrow`
};

class ChunkedTorch {
 public:
  ChunkedTorch(const RecurrenceSpec& spec, const TorchInputs& in, const TorchForm& form)
      : spec_(spec), form_(form), q_(chunks(in.q)), k_(chunks(in.k)), v_(chunks(in.v)) {
    if (in.a.defined()) a_ = chunks(in.a);
    if (in.b.defined()) b_ = chunks(in.b);
    if (spec.decay != Decay::kNone) {
      l_ = chunks(in.log_decay);
      sum_ = l_.cumsum(2);
      end_ = sum_.narrow(2, form.chunk - 1, 1).exp();
      total_ = end_.transpose(2, 3).unbind(1);  // of each chunk: [H, 1 or K, 1]
      if (form.safe) {
        decays_ = kept(sum_, sum_, 0);
        if (spec.transition != Transition::kDiagonal) erase_decays_ = kept(sum_ - l_, sum_, 1);
      } else {
        growth_ = (-sum_).exp();
      }
    }
  }

  // y: [T, H*V]
  at::Tensor forward() const {
    const at::Tensor reads = sum_.defined() ? q_ * sum_.exp() : q_;
    const at::Tensor y = decays_.defined() ? safe(reads) : spec_.transition == Transition::kDiagonal ? diagonal(reads) : erasing(reads);
    return y.permute({1, 2, 0, 3}).reshape({y.size(1) * form_.chunk, -1});
  }

 private:
  // [H, N, chunk, width]
  at::Tensor chunks(const at::Tensor& x) const {
    return x.view({-1, form_.chunk, spec_.heads, x.size(1) / spec_.heads}).permute({2, 0, 1, 3}).contiguous();
  }
  // Of the large products; states, solves and sums of decays are f32.
  at::Tensor narrow(const at::Tensor& x) const { return form_.narrow ? x.to(at::kBFloat16) : x; }
  static at::Tensor wide(const at::Tensor& x) { return x.to(at::kFloat); }
  // Rows that write, as they are to rows that read: x exp(-lam); and as they are at the chunk's end, given that.
  at::Tensor source(const at::Tensor& x) const { return sum_.defined() ? x * growth_ : x; }
  at::Tensor at_end(const at::Tensor& source) const { return sum_.defined() ? source * end_ : source; }

  // sum_d reads_t source_s for s <= t - back, else 0.
  static at::Tensor scores(const at::Tensor& reads, const at::Tensor& source, int64_t back) {
    return at::matmul(reads, source.transpose(2, 3)).tril(-back);
  }

  // exp(to_t - from_s) for s <= t - back, else 0: [H, N, chunk, chunk, 1 or K].
  static at::Tensor kept(const at::Tensor& to, const at::Tensor& from, int64_t back) {
    const int64_t c = to.size(2);
    const at::Tensor later = at::ones({c, c}, at::kBool).triu(1 - back).view({1, 1, c, c, 1});
    return (to.unsqueeze(3) - from.unsqueeze(2)).masked_fill(later, -std::numeric_limits<float>::infinity()).exp();
  }
  static at::Tensor safe_scores(const at::Tensor& reads, const at::Tensor& source, const at::Tensor& kept) {
    if (kept.size(4) == 1) return at::matmul(reads, source.transpose(2, 3)) * kept.squeeze(4);
    return (reads.unsqueeze(3) * kept * source.unsqueeze(2)).sum(4);
  }

  // All transitions; rows at the chunk's end have exponents that are at most 0.
  at::Tensor safe(const at::Tensor& reads) const {
    const at::Tensor to_end = (sum_.narrow(2, form_.chunk - 1, 1) - sum_).exp(), scores = safe_scores(q_, k_, decays_);
    std::vector<at::Tensor> written = at::matmul((k_ * to_end).transpose(2, 3), v_).unbind(1), states;
    at::Tensor state = at::zeros_like(written[0]);
    if (spec_.transition == Transition::kDiagonal) {
      for (size_t i = 0; i < written.size(); ++i) {
        states.push_back(state);
        state = at::addcmul(written[i], state, total_[i]);
      }
      return at::matmul(scores, v_) + at::matmul(reads, at::stack(states, 1));
    }
    const bool delta = spec_.transition == Transition::kDelta;
    const at::Tensor keys = delta ? k_ : b_, one = at::eye(form_.chunk, q_.options());
    const at::Tensor known = delta ? v_ : at::matmul(safe_scores(a_, k_, erase_decays_), v_);
    const at::Tensor solved = at::linalg_solve_triangular(one - safe_scores(a_, keys, erase_decays_), at::cat({known, a_ * (sum_ - l_).exp()}, 3), false, true, true);
    const std::vector<at::Tensor> u = solved.narrow(3, 0, spec_.value_dim).unbind(1), w = solved.narrow(3, spec_.value_dim, spec_.key_dim).unbind(1);
    const std::vector<at::Tensor> writes = (keys * to_end).transpose(2, 3).unbind(1);
    std::vector<at::Tensor> founds;
    for (size_t i = 0; i < u.size(); ++i) {
      states.push_back(state);
      founds.push_back(at::baddbmm(u[i], w[i], state));
      state = state * total_[i];
      if (!delta) state = state + written[i];
      state = at::baddbmm(state, writes[i], founds.back());
    }
    const at::Tensor y = at::matmul(reads, at::stack(states, 1)) + at::matmul(delta ? scores : safe_scores(q_, keys, decays_), at::stack(founds, 1));
    return delta ? y : y + at::matmul(scores, v_);
  }

  at::Tensor diagonal(const at::Tensor& all_reads) const {
    const at::Tensor sources = source(k_), reads = narrow(all_reads), keys = narrow(sources), values = narrow(v_);
    const std::vector<at::Tensor> written = wide(at::matmul(narrow(at_end(sources)).transpose(2, 3), values)).unbind(1);  // [H, K, V]
    at::Tensor state = at::zeros_like(written[0]);
    std::vector<at::Tensor> states;
    for (size_t i = 0; i < written.size(); ++i) {
      states.push_back(state);
      state = sum_.defined() ? at::addcmul(written[i], state, total_[i]) : state + written[i];
    }
    return wide(at::matmul(scores(reads, keys, 0), values) + at::matmul(reads, narrow(at::stack(states, 1))));
  }

  at::Tensor erasing(const at::Tensor& all_reads) const {
    const bool delta = spec_.transition == Transition::kDelta;
    const at::Tensor sources = source(k_), erase_sources = delta ? sources : source(b_);
    const at::Tensor all_erases = sum_.defined() ? a_ * (sum_ - l_).exp() : a_;
    const at::Tensor reads = narrow(all_reads), erases = narrow(all_erases), values = narrow(v_), keys = narrow(sources);
    const at::Tensor erase_keys = delta ? keys : narrow(erase_sources), one = at::eye(form_.chunk, q_.options());
    const at::Tensor known = delta ? v_ : wide(at::matmul(scores(erases, keys, 1), values));
    // What is found is known + w S: one solve for both.
    const at::Tensor solved =
        at::linalg_solve_triangular(one - wide(scores(erases, erase_keys, 1)), at::cat({known, all_erases}, 3), false, true, true);
    const std::vector<at::Tensor> u = solved.narrow(3, 0, spec_.value_dim).unbind(1);
    const std::vector<at::Tensor> w = solved.narrow(3, spec_.value_dim, spec_.key_dim).unbind(1);
    const std::vector<at::Tensor> writes = at_end(erase_sources).transpose(2, 3).unbind(1);
    std::vector<at::Tensor> also;
    if (!delta) also = wide(at::matmul(narrow(at_end(sources)).transpose(2, 3), values)).unbind(1);
    at::Tensor state = at::zeros({q_.size(0), spec_.key_dim, spec_.value_dim}, q_.options());
    std::vector<at::Tensor> states, founds;
    for (size_t i = 0; i < u.size(); ++i) {
      states.push_back(state);
      founds.push_back(at::baddbmm(u[i], w[i], state));
      if (sum_.defined()) state = state * total_[i];
      if (!delta) state = state + also[i];
      state = at::baddbmm(state, writes[i], founds.back());
    }
    const at::Tensor found = narrow(at::stack(founds, 1));
    const at::Tensor y = at::matmul(reads, narrow(at::stack(states, 1))) + at::matmul(scores(reads, erase_keys, 0), found);
    return wide(delta ? y : y + at::matmul(scores(reads, keys, 0), values));
  }

  RecurrenceSpec spec_;
  TorchForm form_;
  at::Tensor q_, k_, v_, a_, b_, l_, sum_, growth_, end_;
  at::Tensor decays_, erase_decays_;  // the safe form's
  std::vector<at::Tensor> total_;
};

}  // namespace retort::bench
