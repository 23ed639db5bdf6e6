// The fused recurrences, forward and backward, beside the same maths written with LibTorch's operations (chunked_torch.h):
// [1, 2048, 9 heads, 64, 64], every family, with one thread and with two (the kernels in parallel over heads), turn by turn in one
// run. LibTorch has f32 products, and bf16 ones as the fused kernels have for most of theirs (only where the processor multiplies bf16:
// elsewhere LibTorch's are plain loops, no rival), and f32 ones in the form that is right at any decay, as the fused kernels are; all in chunks of
// whatever size (16 to 128 tokens) is fastest here. Prints the medians, their ratios, how far fused and f32 results are apart, the fused kernels' multiply-adds per second (those that the equations
// need in chunks of 64, causal halves only), and those of large products of LibTorch's.
//
//   train_recurrence_bench [repeats]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <optional>
#include <thread>

#include "base/cpu.h"
#include "base/threads.h"
#include "base/timing.h"
#include "chunked_torch.h"
#include "kernels/rank_one.h"
#include "kernels/recurrence.h"

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

// The result and the gradients of its product with d_out, in the order y, q, k, v, log_decay, a, b.
using Results = std::vector<at::Tensor>;

Results libtorch(const Family& f, const TorchInputs& in, const at::Tensor& d_out, const TorchForm& form) {
  RecurrenceSpec spec{f.decay, kHeads, kHeads, kDim, kDim};
  spec.transition = f.transition;
  std::vector<at::Tensor> leaves;
  for (const at::Tensor& x : {in.q, in.k, in.v, in.log_decay, in.a, in.b}) {
    if (x.defined()) leaves.push_back(x);
  }
  const at::Tensor y = ChunkedTorch(spec, in, form).forward();
  Results out = torch::autograd::grad({y}, leaves, {d_out});
  out.insert(out.begin(), y.detach());
  return out;
}

Results fused(const Family& f, const TorchInputs& in, const at::Tensor& d_out, ThreadPool& pool) {
  const KernelDecay decay = f.decay == Decay::kNone     ? KernelDecay::kNone
                            : f.decay == Decay::kScalar ? KernelDecay::kScalar
                                                        : KernelDecay::kPerKey;
  Results out{at::empty({kTokens, kHeads * kDim})};
  const auto data = [](const at::Tensor& x) { return x.defined() ? x.data_ptr<float>() : nullptr; };
  const auto gradient = [&](const at::Tensor& x) -> float* {
    if (!x.defined()) return nullptr;
    out.push_back(at::empty(x.sizes()));
    return out.back().data_ptr<float>();
  };
  float* const y = data(out[0]);
  float *const dq = gradient(in.q), *const dk = gradient(in.k), *const dv = gradient(in.v), *const dl = gradient(in.log_decay);
  if (f.transition == Transition::kDiagonal) {
    const KernelRecurrence spec{decay, kHeads, kHeads, kDim, kDim};
    const RecurrenceTokens<float> tokens{data(in.q), data(in.k), data(in.v), data(in.log_decay), nullptr};
    pool.run_chunks(kHeads, [&](int64_t h) { recurrence_forward(spec, int(h), kTokens, 0, tokens, nullptr, y, nullptr, Arithmetic::kFast); });
    pool.run_chunks(kHeads, [&](int64_t h) {
      recurrence_backward(spec, int(h), kTokens, tokens, y, data(d_out), nullptr, {dq, dk, dv, dl, nullptr}, Arithmetic::kFast);
    });
  } else {
    const KernelRankOne spec{decay, f.transition == Transition::kDelta, kHeads, kHeads, kDim, kDim};
    const RankOneTokens<float> tokens{data(in.q), data(in.k), data(in.v), data(in.log_decay), data(in.a), data(in.b)};
    const RankOneGradients<float> to{dq, dk, dv, dl, gradient(in.a), gradient(in.b)};
    pool.run_chunks(kHeads, [&](int64_t h) { rank_one_forward(spec, int(h), kTokens, 0, tokens, nullptr, y, Arithmetic::kFast); });
    pool.run_chunks(kHeads, [&](int64_t h) { rank_one_backward(spec, int(h), kTokens, tokens, data(d_out), to, Arithmetic::kFast); });
  }
  return out;
}

// Largest difference of any result over the largest number in it.
double distance(const Results& a, const Results& b) {
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
  std::this_thread::sleep_for(std::chrono::milliseconds(10));  // until the other side's threads have stopped spinning
  const auto start = Clock::now();
  fn();
  return seconds_since(start) * 1e3;
}

// The fastest chunk: the better of two runs each, after one that does not count.
TorchForm best_form(const Family& f, const TorchInputs& in, const at::Tensor& d_out, bool narrow, bool safe) {
  TorchForm best;
  double least = 0;
  // A number for every pair of tokens and key soon fills memory.
  const std::vector<int64_t> chunks = safe && f.decay == Decay::kPerKey ? std::vector<int64_t>{16, 32} : std::vector<int64_t>{32, 64, 128};
  for (int64_t chunk : chunks) {
    const TorchForm form{chunk, narrow, safe};
    const auto once = [&] { return milliseconds([&] { libtorch(f, in, d_out, form); }); };
    once();
    const double first = once(), ms = std::min(first, once());
    if (least == 0 || ms < least) best = form, least = ms;
  }
  return best;
}

void run(int threads, int repeats) {
  at::set_num_threads(threads);
  ThreadPool pool(threads);
  const bool has_narrow = isa_available(Isa::kAvx512);
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    if (type == at::kBFloat16 && !has_narrow) continue;
    const at::Tensor a = at::randn({2048, 2048}).to(type), b = at::randn({2048, 2048}).to(type);
    std::vector<double> ms;
    for (int i = 0; i < repeats; ++i) ms.push_back(milliseconds([&] { at::mm(a, b); }));
    std::printf("%d thread%s: LibTorch's product of 2048 x 2048 matrices in %s, %.1f GFLOP/s\n", threads, threads == 1 ? "" : "s",
                at::toString(type), 2 * 2048.0 * 2048 * 2048 / median(ms) * 1e-6);
  }
  std::printf("%-18s %20s %20s %20s %9s %7s %7s %7s %8s %8s\n", "family", "LibTorch f32 ms", "LibTorch bf16 ms", "safe f32 ms", "fused ms", "f32 /",
              "bf16 /", "safe /", "apart", "GFLOP/s");
  for (const Family& f : {Family{"none", Decay::kNone, Transition::kDiagonal}, Family{"scalar", Decay::kScalar, Transition::kDiagonal},
                          Family{"per key", Decay::kPerKey, Transition::kDiagonal}, Family{"delta", Decay::kNone, Transition::kDelta},
                          Family{"scalar delta", Decay::kScalar, Transition::kDelta}, Family{"per-key rank one", Decay::kPerKey, Transition::kRankOne}}) {
    const TorchInputs in = make_inputs(f);
    const at::Tensor d_out = at::randn({kTokens, kHeads * kDim});
    std::vector<std::optional<TorchForm>> forms(3);
    forms[0] = best_form(f, in, d_out, false, false);
    if (has_narrow) forms[1] = best_form(f, in, d_out, true, false);
    if (f.decay != Decay::kNone) forms[2] = best_form(f, in, d_out, false, true);
    const double apart = distance(fused(f, in, d_out, pool), libtorch(f, in, d_out, *forms[0]));
    if (forms[2]) RETORT_CHECK(distance(libtorch(f, in, d_out, *forms[2]), libtorch(f, in, d_out, *forms[0])) < 1e-3, "the two forms differ");
    std::vector<double> torch_ms[3], fused_ms;
    for (int i = 0; i < repeats; ++i) {
      for (size_t j = 0; j < forms.size(); ++j) {
        if (forms[j]) torch_ms[j].push_back(milliseconds([&] { libtorch(f, in, d_out, *forms[j]); }));
      }
      fused_ms.push_back(milliseconds([&] { fused(f, in, d_out, pool); }));
    }
    const double ms = median(fused_ms);
    std::printf("%-18s", f.name);
    for (size_t j = 0; j < forms.size(); ++j) {
      if (forms[j]) std::printf(" %8.1f (chunk %3lld)", median(torch_ms[j]), static_cast<long long>(forms[j]->chunk));
      else std::printf(" %20s", "-");
    }
    std::printf(" %9.1f", ms);
    for (size_t j = 0; j < forms.size(); ++j) {
      if (forms[j]) std::printf(" %7.2f", median(torch_ms[j]) / ms);
      else std::printf(" %7s", "-");
    }
    std::printf(" %8.0e %8.1f\n", apart, 2e-6 * multiply_adds(f.transition) * kTokens * kHeads / ms);
    std::fflush(stdout);
  }
}

}  // namespace
}  // namespace retort::bench

int main(int argc, char** argv) {
  const int repeats = argc > 1 ? std::atoi(argv[1]) : 15;
  if (repeats < 1) {
    std::fprintf(stderr, "train_recurrence_bench: error: repeats is '%s'; expected a whole number from 1 on\n", argv[1]);
    return 2;
  }
  for (int threads : {1, 2}) retort::bench::run(threads, repeats);
}
