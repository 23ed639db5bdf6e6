// The one recurrence (mixers/mixer.h) as one would write it with LibTorch's operations: chunks of 64 tokens, everything inside chunks in
// products batched over heads and chunks, decays between chunks as one product too where the transition is diagonal, and otherwise
// one step per chunk on [heads, 64, 64]. Autograd does the backward pass. The peer of train_recurrence_bench.cc.
//
// Per-key scores are products of q exp(lam) and k exp(-lam): fast, and only right while a chunk's log-decays add up to no less
// than about -80. (The fused kernels take this way too while they can, and another when they cannot.)
#pragma once

#include <torch/torch.h>

#include "mixers/mixer.h"

namespace retort::bench {

// Rows [T, H*width], T a multiple of 64; log_decay, a and b where the spec has them.
struct TorchInputs {
  at::Tensor q, k, v, log_decay{}, a{}, b{};
};

class ChunkedTorch {
 public:
  ChunkedTorch(const RecurrenceSpec& spec, const TorchInputs& in) : spec_(spec), q_(chunks(in.q)), k_(chunks(in.k)), v_(chunks(in.v)) {
    if (in.a.defined()) a_ = chunks(in.a);
    if (in.b.defined()) b_ = chunks(in.b);
    if (spec.transition == Transition::kDelta) b_ = k_;
    if (spec.decay != Decay::kNone) {
      l_ = chunks(in.log_decay);
      sum_ = l_.cumsum(2);
      total_ = sum_.narrow(2, kChunk - 1, 1).exp().transpose(2, 3);  // [H, N, 1 or K, 1]
    }
  }

  // y: [T, H*V]
  at::Tensor forward() const {
    const at::Tensor reads = decayed(q_, sum_);
    const at::Tensor y = spec_.transition == Transition::kDiagonal ? diagonal(reads) : erasing(reads);
    return y.permute({1, 2, 0, 3}).reshape({y.size(1) * kChunk, -1});
  }

 private:
  static constexpr int64_t kChunk = 64;

  // [H, N, 64, width]
  at::Tensor chunks(const at::Tensor& x) const {
    return x.view({-1, kChunk, spec_.heads, x.size(1) / spec_.heads}).permute({2, 0, 1, 3}).contiguous();
  }
  at::Tensor decayed(const at::Tensor& x, const at::Tensor& exponent) const { return sum_.defined() ? x * exponent.exp() : x; }
  at::Tensor at_end(const at::Tensor& x) const { return sum_.defined() ? x * (sum_.narrow(2, kChunk - 1, 1) - sum_).exp() : x; }

  // sum_d x_t y_s exp(after_t - sum_s) for s <= t - back, else 0.
  at::Tensor scores(const at::Tensor& x, const at::Tensor& y, const at::Tensor& after, int64_t back) const {
    if (spec_.decay == Decay::kPerKey) return at::matmul(decayed(x, after), (y * (-sum_).exp()).transpose(2, 3)).tril(-back);
    const at::Tensor s = at::matmul(x, y.transpose(2, 3));
    return spec_.decay == Decay::kNone ? s.tril(-back) : s * (after - sum_.transpose(2, 3)).tril(-back).exp().tril(-back);
  }

  at::Tensor diagonal(const at::Tensor& reads) const {
    const at::Tensor written = at::matmul(at_end(k_).transpose(2, 3), v_);  // [H, N, K, V]
    return at::matmul(scores(q_, k_, sum_, 0), v_) + at::matmul(reads, before(written));
  }
  // The states before the chunks, given what each writes.
  at::Tensor before(const at::Tensor& written) const {
    const int64_t n = written.size(1);
    if (!sum_.defined()) return written.cumsum(1) - written;
    // kept[i, j] = exp of the log-decays of the chunks between j and i, for j < i: of every head, or of every head and key.
    const at::Tensor sums = sum_.select(2, kChunk - 1).cumsum(1).permute({0, 2, 1});  // [H, 1 or K, N]
    const at::Tensor until = at::constant_pad_nd(sums.narrow(2, 0, n - 1), {1, 0});
    const at::Tensor kept = (until.unsqueeze(3) - sums.unsqueeze(2)).tril(-1).exp().tril(-1);
    if (kept.size(1) == 1) return at::matmul(kept.squeeze(1), written.flatten(2)).view_as(written);
    return at::matmul(kept, written.transpose(1, 2)).transpose(1, 2);
  }

  at::Tensor erasing(const at::Tensor& reads) const {
    const bool delta = spec_.transition == Transition::kDelta;
    const at::Tensor until = sum_.defined() ? sum_ - l_ : sum_, one = at::eye(kChunk, q_.options());
    const at::Tensor known = delta ? v_ : at::matmul(scores(a_, k_, until, 1), v_);
    // What is found is known + w S: one solve for both.
    const at::Tensor solved =
        at::linalg_solve_triangular(one - scores(a_, b_, until, 1), at::cat({known, decayed(a_, until)}, 3), false, true, true);
    const at::Tensor u = solved.narrow(3, 0, spec_.value_dim), w = solved.narrow(3, spec_.value_dim, spec_.key_dim);
    const at::Tensor writes = at_end(b_).transpose(2, 3);
    const at::Tensor also = delta ? at::Tensor() : at::matmul(at_end(k_).transpose(2, 3), v_);
    at::Tensor state = at::zeros({q_.size(0), spec_.key_dim, spec_.value_dim}, q_.options());
    std::vector<at::Tensor> states, founds;
    for (int64_t i = 0; i < q_.size(1); ++i) {
      states.push_back(state);
      founds.push_back(at::baddbmm(u.select(1, i), w.select(1, i), state));
      if (sum_.defined()) state = state * total_.select(1, i);
      if (!delta) state = state + also.select(1, i);
      state = at::baddbmm(state, writes.select(1, i), founds.back());
    }
    const at::Tensor found = at::stack(founds, 1);
    at::Tensor y = at::matmul(reads, at::stack(states, 1)) + at::matmul(scores(q_, b_, sum_, 0), found);
    return delta ? y : y + at::matmul(scores(q_, k_, sum_, 0), v_);
  }

  RecurrenceSpec spec_;
  at::Tensor q_, k_, v_, a_, b_, l_, sum_, total_;
};

}  // namespace retort::bench
