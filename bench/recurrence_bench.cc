// What a joined part of the quickstart's student costs to train, one layer of SmolLM2 at 2 x 384 tokens on one core: the slots
// recurrence (H 9, G 3, K 256, V 64, normalised) and the window attention (64 + 4 sinks), forward and backward. GFLOP/s
// counts the multiply-adds that the equations need (causal half only), beside the peak of register-only loops in the same run.
//
//   recurrence_bench [--benchmark_filter=...]
#include <benchmark/benchmark.h>

#include <random>
#include <vector>

#include "base/cpu.h"
#include "kernels/recurrence.h"
#include "kernels/window_attention.h"

namespace retort {
namespace {

constexpr int kSequences = 2, kTokens = 384, kHeads = 9, kKvHeads = 3, kHeadDim = 64, kWindow = 64, kSinks = 4;

std::vector<float> random_numbers(size_t n, float least, float most) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> uniform(least, most);
  std::vector<float> x(n);
  for (float& e : x) e = uniform(random);
  return x;
}

void rate(benchmark::State& state, double flops) {
  state.counters["GFLOP/s"] = benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void recurrence(benchmark::State& state, KernelDecay decay, int key_dim, KernelNormaliser normaliser, Arithmetic arithmetic,
                bool backward) {
  const KernelRecurrence spec{decay, kHeads, kKvHeads, key_dim, kHeadDim, normaliser, 0, kWindow + kSinks};
  const bool normalised = spec.normalised();
  const int64_t T = kTokens, D = decay == KernelDecay::kPerKey ? key_dim : 1;
  const auto q = random_numbers(T * kHeads * key_dim, 0, 1), k = random_numbers(T * kKvHeads * key_dim, 0, 1);
  const auto v = random_numbers(T * kKvHeads * kHeadDim, -1, 1), l = random_numbers(T * kKvHeads * D, -0.1f, 0);
  const auto d_out = random_numbers(T * kHeads * kHeadDim, -1, 1), d_norm = random_numbers(T * kHeads, -1, 1);
  std::vector<float> out(d_out.size()), norm(d_norm.size()), dq(q.size()), dk(k.size()), dv(v.size()), dl(l.size()), offset(norm.size());
  const RecurrenceTokens<float> in{q.data(), k.data(), v.data(), decay == KernelDecay::kNone ? nullptr : l.data(), nullptr};
  const RecurrenceGradients<float> to{dq.data(), dk.data(), dv.data(), dl.data(), offset.data()};
  for (auto _ : state) {
    for (int sequence = 0; sequence < kSequences; ++sequence) {
      for (int g = 0; g < kKvHeads; ++g) {
        float* log_norm = normalised ? norm.data() : nullptr;
        recurrence_forward(spec, g, T, 0, in, nullptr, out.data(), log_norm, arithmetic);
        if (backward) recurrence_backward(spec, g, T, in, out.data(), d_out.data(), normalised ? d_norm.data() : nullptr, to, arithmetic);
      }
    }
    benchmark::ClobberMemory();
  }
  const double written = T - spec.first_position, pairs = 32.5 * written;
  const double KV = double(key_dim) * kHeadDim;
  const double fwd = kHeads * (written * KV + pairs * (key_dim + kHeadDim)) + kKvHeads * written * KV;
  const double bwd = kHeads * (2 * written * KV + pairs * (3 * key_dim + 2 * kHeadDim)) + kKvHeads * 3 * written * KV;
  rate(state, 2 * kSequences * (fwd + (backward ? bwd : 0)));
}

void window(benchmark::State& state, int64_t size, Arithmetic arithmetic, bool backward) {
  const KernelAttention spec{kHeads, kKvHeads, kHeadDim, kHeadDim, size, size > 0 ? kSinks : 0};
  const int64_t T = kTokens;
  const auto q = random_numbers(T * kHeads * kHeadDim, -1, 1), k = random_numbers(T * kKvHeads * kHeadDim, -1, 1);
  const auto v = random_numbers(k.size(), -1, 1), d_out = random_numbers(q.size(), -1, 1), d_norm = random_numbers(T * kHeads, -1, 1);
  std::vector<float> out(q.size()), norm(d_norm.size()), dq(q.size()), dk(k.size()), dv(k.size());
  for (auto _ : state) {
    for (int sequence = 0; sequence < kSequences; ++sequence) {
      for (int g = 0; g < kKvHeads; ++g) {
        window_attention_forward(spec, g, T, q.data(), k.data(), v.data(), out.data(), norm.data(), arithmetic);
        if (backward) {
          window_attention_backward(spec, g, T, q.data(), k.data(), v.data(), out.data(), norm.data(), d_out.data(), d_norm.data(),
                                    dq.data(), dk.data(), dv.data(), arithmetic);
        }
      }
    }
    benchmark::ClobberMemory();
  }
  double pairs = 0;
  for (int64_t t = 0; t < T; ++t) {
    for (int64_t s = 0; s <= t; ++s) pairs += size == 0 || s > t - size || s < spec.sinks;
  }
  rate(state, 2 * kSequences * kHeads * pairs * kHeadDim * (backward ? 7 : 2));
}

void step(benchmark::State& state) {
  const KernelRecurrence spec{KernelDecay::kNone, kHeads, kKvHeads, 256, kHeadDim, KernelNormaliser::kSum};
  const auto q = random_numbers(kHeads * 256, 0, 1), k = random_numbers(kKvHeads * 256, 0, 1), v = random_numbers(kKvHeads * kHeadDim, -1, 1);
  std::vector<float> memory(kKvHeads * spec.state_size()), out(kHeads * kHeadDim), norm(kHeads);
  for (auto _ : state) {
    for (int g = 0; g < kKvHeads; ++g) {
      recurrence_step(spec, g, 0, {q.data(), k.data(), v.data(), nullptr, nullptr}, memory.data() + g * spec.state_size(), out.data(), norm.data());
    }
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(int64_t(state.iterations()) * int64_t(memory.size()) * 4);
}

#if defined(__x86_64__)
// 24 independent sums in registers: the most that the core can do.
#define RETORT_PEAK(instruction)                                                                          \
  asm volatile(".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n " instruction      \
               " %%zmm30,%%zmm31,%%zmm\\r\n .endr" ::                                                      \
                   : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", \
                     "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23")
__attribute__((target("avx512f"))) void peak_f32(benchmark::State& state) {
  asm volatile("vpxord %%zmm30,%%zmm30,%%zmm30\n vpxord %%zmm31,%%zmm31,%%zmm31" ::: "xmm30", "xmm31");
  for (auto _ : state) {
    for (int i = 0; i < 1000; ++i) RETORT_PEAK("vfmadd231ps");
  }
  rate(state, 1000.0 * 24 * 32);
}
__attribute__((target("avx512f,avx512bf16"))) void peak_bf16(benchmark::State& state) {
  asm volatile("vpxord %%zmm30,%%zmm30,%%zmm30\n vpxord %%zmm31,%%zmm31,%%zmm31" ::: "xmm30", "xmm31");
  for (auto _ : state) {
    for (int i = 0; i < 1000; ++i) RETORT_PEAK("vdpbf16ps");
  }
  rate(state, 1000.0 * 24 * 64);
}
#undef RETORT_PEAK
#endif

void add(const std::string& name, auto&& fn) { benchmark::RegisterBenchmark(name.c_str(), fn)->Unit(benchmark::kMillisecond); }

void add_all() {
#if defined(__x86_64__)
  if (isa_available(Isa::kAvx512)) {
    add("peak/f32", peak_f32);
    add("peak/bf16", peak_bf16);
  }
#endif
  for (Arithmetic a : {Arithmetic::kExact, Arithmetic::kFast}) {
    const std::string kind = a == Arithmetic::kExact ? "exact" : "fast";
    for (bool both : {false, true}) {
      const std::string what = kind + (both ? "/forward+backward" : "/forward");
      add("slots/" + what, [=](benchmark::State& s) { recurrence(s, KernelDecay::kNone, 256, KernelNormaliser::kSum, a, both); });
      add("window/" + what, [=](benchmark::State& s) { window(s, kWindow, a, both); });
      add("attention/" + what, [=](benchmark::State& s) { window(s, 0, a, both); });
    }
  }
  for (const auto& [name, decay] : {std::pair{"scalar_decay", KernelDecay::kScalar}, std::pair{"per_key_decay", KernelDecay::kPerKey}}) {
    add(std::string(name) + "/exact/forward+backward",
        [decay](benchmark::State& s) { recurrence(s, decay, 64, KernelNormaliser::kNone, Arithmetic::kExact, true); });
  }
  add("slots/step", step);
}

}  // namespace
}  // namespace retort

int main(int argc, char** argv) {
  retort::add_all();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
