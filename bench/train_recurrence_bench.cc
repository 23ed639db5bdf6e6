// The fused recurrences, forward and backward, beside the same maths written with LibTorch's operations in f32 (chunked_torch.h):
// [1, 2048, 9 heads, 64, 64], every family, one thread, turn by turn in one run. Prints the medians, their ratio, how far the two
// results are apart, and the multiply-adds that the equations need in chunks of 64 (causal halves only) per second of the fused kernel.
//
//   train_recurrence_bench [repeats]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "chunked_torch.h"
#include "train/functions.h"

namespace retort::bench {
namespace {

constexpr int64_t kTokens = 2048, kDim = 64;
constexpr int kHeads = 9;

struct Family {
  const char* name;
  Decay decay;
  Transition transition;
};

TorchInputs make_inputs(const Family& f) {
  torch::manual_seed(1);
  const auto rows = [](int64_t width) { return at::randn({kTokens, kHeads * width}); };
  const auto unit = [&] {  // unit vectors per head
    const at::Tensor x = rows(kDim).view({kTokens, kHeads, kDim});
    return (x / x.norm(2, 2, true)).view({kTokens, kHeads * kDim});
  };
  TorchInputs in{rows(kDim), unit(), rows(kDim)};
  if (f.decay != Decay::kNone) in.log_decay = at::rand({kTokens, kHeads * (f.decay == Decay::kScalar ? 1 : kDim)}) * -0.1;
  if (f.transition == Transition::kDelta) in.a = -in.k, in.k = in.k * 0.5;
  if (f.transition == Transition::kRankOne) in.a = -unit(), in.b = in.a * -0.5;
  for (at::Tensor* x : {&in.q, &in.k, &in.v, &in.log_decay, &in.a, &in.b}) {
    if (x->defined()) x->requires_grad_();
  }
  return in;
}

RecurrenceSpec spec_of(const Family& f) {
  RecurrenceSpec spec{f.decay, kHeads, kHeads, kDim, kDim};
  spec.transition = f.transition;
  return spec;
}
at::Tensor fused(const Family& f, const TorchInputs& in) {
  const std::vector<train::Sequence> sequences = {{0, kTokens}};
  constexpr auto kFast = train::Numeric::kFast;
  if (f.transition == Transition::kDiagonal) return train::recurrence(spec_of(f), in.q, in.k, in.v, in.log_decay, {}, sequences, kFast).first;
  return train::rank_one(spec_of(f), in.q, in.k, in.v, in.log_decay, in.a, in.b, sequences, kFast);
}
at::Tensor plain(const Family& f, const TorchInputs& in) { return ChunkedTorch(spec_of(f), in).forward(); }

// The result and the gradients of its product with fixed numbers.
std::vector<at::Tensor> forward_backward(const at::Tensor& y, const TorchInputs& in, const at::Tensor& d_out) {
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& x : {in.q, in.k, in.v, in.log_decay, in.a, in.b}) {
    if (x.defined()) leaves.push_back(x);
  }
  auto out = torch::autograd::grad({y}, leaves, {d_out});
  out.push_back(y.detach());
  return out;
}

// Largest difference of any result over the largest number in it.
double distance(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, ((a[i] - b[i]).abs().max() / b[i].abs().max()).item<double>());
  return most;
}

// Multiply-adds per token and head. A chunk is read by `r` readers (the query, and the erasing rows) and written by m sources.
double multiply_adds(Transition transition) {
  const double e = transition == Transition::kDiagonal ? 0 : 1, r = 1 + e, m = transition == Transition::kRankOne ? 2 : 1;
  const double square = double(kDim) * kDim, pair = 32.5 * kDim;
  const double find = square * (e + m) + pair * e * (m + (m - 1) + 1);  // scores, A_k V, the solve; the next state
  const double forward = find + square + pair * 2 * m;
  const double backward = find + square * (2 * m + 2 * r) + pair * (2 * m + e * m + 3 * r * m);
  return forward + backward;
}

double milliseconds(const std::function<void()>& fn) {
  const auto start = std::chrono::steady_clock::now();
  fn();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}
double median(std::vector<double> x) {
  std::nth_element(x.begin(), x.begin() + int64_t(x.size() / 2), x.end());
  return x[x.size() / 2];
}

void run(int repeats) {
  at::set_num_threads(1);
  std::printf("%-18s %12s %12s %8s %10s %10s\n", "family", "LibTorch ms", "fused ms", "ratio", "apart", "GFLOP/s");
  for (const Family& f : {Family{"none", Decay::kNone, Transition::kDiagonal}, Family{"scalar", Decay::kScalar, Transition::kDiagonal},
                          Family{"per key", Decay::kPerKey, Transition::kDiagonal}, Family{"delta", Decay::kNone, Transition::kDelta},
                          Family{"scalar delta", Decay::kScalar, Transition::kDelta}, Family{"per-key rank one", Decay::kPerKey, Transition::kRankOne}}) {
    const TorchInputs in = make_inputs(f);
    const at::Tensor d_out = at::randn({kTokens, kHeads * kDim});
    const double apart = distance(forward_backward(fused(f, in), in, d_out), forward_backward(plain(f, in), in, d_out));
    std::vector<double> torch_ms, fused_ms;
    for (int i = 0; i < repeats; ++i) {
      torch_ms.push_back(milliseconds([&] { forward_backward(plain(f, in), in, d_out); }));
      fused_ms.push_back(milliseconds([&] { forward_backward(fused(f, in), in, d_out); }));
    }
    const double ms = median(fused_ms), flops = 2 * multiply_adds(f.transition) * kTokens * kHeads;
    std::printf("%-18s %12.1f %12.1f %8.2f %10.0e %10.1f\n", f.name, median(torch_ms), ms, median(torch_ms) / ms, apart, flops / ms * 1e-6);
  }
}

}  // namespace
}  // namespace retort::bench

int main(int argc, char** argv) {
  const int repeats = argc > 1 ? std::atoi(argv[1]) : 7;
  if (repeats < 1) {
    std::fprintf(stderr, "train_recurrence_bench: error: repeats is '%s'; expected a whole number from 1 on\n", argv[1]);
    return 2;
  }
  retort::bench::run(repeats);
}
