// The selective scan of one layer of SmolLM2's size, 2,048 tokens, 9 heads of 64 channels, 64 or 16 cells a channel, on one thread; and,
// where LibTorch is there, the same maths in its operations (decays and writes of all tokens first, then a loop over tokens).
//
//   selective_scan_bench [--benchmark_filter=...]
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "kernels/selective_scan.h"
#if defined(RETORT_BENCH_TORCH)
#include <torch/torch.h>
#endif

namespace retort {
namespace {

constexpr int64_t kTokens = 2048, kHeads = 9, kChannels = 64;

std::vector<float> random_numbers(int64_t n, float least, float most) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(least, most);
  std::vector<float> x(static_cast<size_t>(n));
  for (float& e : x) e = uniform(random);
  return x;
}

struct Data {
  explicit Data(int64_t cells)
      : q(random_numbers(kTokens * kHeads * cells, -1, 1)), k(random_numbers(kTokens * kHeads * cells, -1, 1)),
        v(random_numbers(kTokens * kHeads * kChannels, -1, 1)), step(random_numbers(kTokens * kHeads * kChannels, 0.001f, 0.1f)),
        rate(random_numbers(kHeads * cells * kChannels, -float(cells), -1)), d_out(random_numbers(kTokens * kHeads * kChannels, -1, 1)) {}
  std::vector<float> q, k, v, step, rate, d_out;
};

void count_cells(benchmark::State& state, int64_t cells, int64_t tokens) {
  const double all = double(tokens * kHeads * kChannels * cells);
  state.counters["cells/s"] = benchmark::Counter(all, benchmark::Counter::kIsIterationInvariantRate);
}

void scan(benchmark::State& state, int cells, int64_t tokens, bool backward) {
  const KernelScan spec{kHeads, kHeads, cells, kChannels, 0};
  const Data d(cells);
  const ScanTokens<float> in{d.q.data(), d.k.data(), d.v.data(), d.step.data()};
  std::vector<float> out(d.d_out.size()), dq(d.q.size()), dk(d.k.size()), dv(d.v.size()), dstep(d.step.size()), drate(d.rate.size());
  std::vector<float> memory(static_cast<size_t>(kHeads * spec.state_size()));
  for (auto _ : state) {
    for (int g = 0; g < kHeads; ++g) {
      selective_scan_forward(spec, g, tokens, 0, in, d.rate.data(), memory.data() + g * spec.state_size(), out.data());
      if (backward) {
        selective_scan_backward(spec, g, tokens, in, d.rate.data(), d.d_out.data(),
                                {dq.data(), dk.data(), dv.data(), dstep.data(), drate.data()});
      }
    }
    benchmark::ClobberMemory();
  }
  count_cells(state, cells, tokens);
}

#if defined(RETORT_BENCH_TORCH)
void torch_scan(benchmark::State& state, int64_t cells, bool backward) {
  at::set_num_threads(1);
  const Data d(cells);
  const auto tensor = [](const std::vector<float>& x, std::vector<int64_t> shape) { return torch::tensor(x).view(shape); };
  std::vector<at::Tensor> leaves = {tensor(d.q, {kTokens, kHeads, cells}), tensor(d.k, {kTokens, kHeads, cells}),
                                    tensor(d.v, {kTokens, kHeads, kChannels}), tensor(d.step, {kTokens, kHeads, kChannels}),
                                    tensor(d.rate, {kHeads, cells, kChannels})};
  const at::Tensor d_out = tensor(d.d_out, {kTokens, kHeads, kChannels});
  for (at::Tensor& leaf : leaves) leaf.requires_grad_(backward);
  const torch::AutoGradMode gradients(backward);
  for (auto _ : state) {
    const at::Tensor decays = at::exp(leaves[4] * leaves[3].unsqueeze(2)), writes = leaves[1].unsqueeze(3) * leaves[2].unsqueeze(2);
    const auto decay = decays.unbind(0), write = writes.unbind(0), q = leaves[0].unsqueeze(2).unbind(0);
    at::Tensor memory = at::zeros({kHeads, cells, kChannels});
    std::vector<at::Tensor> out;
    for (int64_t t = 0; t < kTokens; ++t) {
      memory = decay[size_t(t)] * memory + write[size_t(t)];
      out.push_back(at::bmm(q[size_t(t)], memory));
    }
    const at::Tensor y = at::stack(out).view({kTokens, kHeads, kChannels});
    if (backward) benchmark::DoNotOptimize(torch::autograd::grad({y}, leaves, {d_out}));
  }
  count_cells(state, cells, kTokens);
}
#endif

void add(const std::string& name, auto&& fn) { benchmark::RegisterBenchmark(name.c_str(), fn)->Unit(benchmark::kMillisecond); }

void add_all() {
  for (int cells : {64, 16}) {
    const std::string size = "/" + std::to_string(cells) + " cells";
    for (bool backward : {false, true}) {
      const std::string what = size + (backward ? "/forward+backward" : "/forward");
      add("scan" + what, [=](benchmark::State& s) { scan(s, cells, kTokens, backward); });
#if defined(RETORT_BENCH_TORCH)
      add("libtorch" + what, [=](benchmark::State& s) { torch_scan(s, cells, backward); });
#endif
    }
    add("scan" + size + "/one token", [=](benchmark::State& s) { scan(s, cells, 1, false); });
  }
}

}  // namespace
}  // namespace retort

int main(int argc, char** argv) {
  retort::add_all();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
