// Packed matrix products at SmolLM2-135M's shapes, beside what the machine can do at all, measured in the same run:
//   Limit/StreamingRead  bytes/s of plain reads (decoding reads every weight once per token)
//   Limit/DotProducts    operations/s of the 8-bit dot instruction on registers (prefill)
// Matvec walks enough copies of the matrix to miss every cache, as a decoding step does. `of_limit` is the ratio.
//
//   matmul_bench --benchmark_filter=Q4_1 --benchmark_repetitions=5       RETORT_THREADS=n (default: all)
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <random>
#include <string>

#include "kernels/matmul.h"

namespace retort {
namespace {

using Clock = std::chrono::steady_clock;
using enum BlockFormat;

ThreadPool& pool() {
  static ThreadPool p(std::getenv("RETORT_THREADS") ? std::atoi(std::getenv("RETORT_THREADS")) : 0);
  return p;
}

struct Format {
  const char* name;
  BlockFormat id;
};
constexpr Format kFormats[] = {{"Q4_0", kQ4_0}, {"Q4_1", kQ4_1}, {"Q8_0", kQ8_0}, {"BF16", kBF16}, {"F32", kF32}};
constexpr int64_t kShapes[][2] = {{576, 576}, {192, 576}, {1536, 576}, {576, 1536}, {49152, 576}};

std::vector<float> random_floats(int64_t n) {
  std::mt19937 rng(1);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> v(static_cast<size_t>(n));
  for (float& x : v) x = uniform(rng);
  return v;
}

// The best of several passes over 256 MB, by all threads.
double streaming_bytes_per_second() {
  static const double best = [] {
    std::vector<uint64_t> data(32 << 20, 1);
    double seconds = 1e9;
    for (int pass = 0; pass < 6; ++pass) {
      const auto start = Clock::now();
      pool().run_chunks(256, [&](int64_t i) {
        const uint64_t* p = data.data() + i * (data.size() / 256);
        uint64_t s[16] = {};
        for (size_t k = 0; k < data.size() / 256; k += 16)
          for (int j = 0; j < 16; ++j) s[j] += p[k + j];
        benchmark::DoNotOptimize(s);
      });
      seconds = std::min(seconds, std::chrono::duration<double>(Clock::now() - start).count());
    }
    return double(data.size()) * 8 / seconds;
  }();
  return best;
}

// A product whose operands stay in the first-level cache: the tile kernels' own ceiling.
double cached_operations_per_second(BlockFormat format) {
  constexpr int64_t kRows = 32, kColumns = 256, kTokens = 6 * 16, kRounds = 2000;
  const auto values = random_floats(kRows * kColumns), x = random_floats(kTokens * kColumns);
  const auto w = PackedMatrix::pack_f32(format, kRows, kColumns, values.data());
  double seconds = 1e9;
  for (int pass = 0; pass < 4; ++pass) {
    const auto start = Clock::now();
    pool().run([&](int, int) {
      ThreadPool alone(1);
      Activations in;
      in.set(x.data(), kTokens, kColumns);
      std::vector<float> y(kTokens * kRows);
      for (int i = 0; i < kRounds; ++i)
        matmul(alone, in, {.w = &*w, .y = y.data(), .y_stride = kRows, .bf16_activations = true});
    });
    seconds = std::min(seconds, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return 2.0 * kRows * kColumns * kTokens * kRounds * pool().size() / seconds;
}

void matvec(benchmark::State& state, BlockFormat format, int64_t rows, int64_t columns) {
  const auto values = random_floats(rows * columns), x = random_floats(columns);
  std::vector<PackedMatrix> copies;
  do {
    copies.push_back(PackedMatrix::pack_f32(format, rows, columns, values.data()).value());
  } while (int64_t(copies.size()) * copies[0].bytes() < (96 << 20));
  std::vector<float> y(static_cast<size_t>(rows));
  Activations in;
  size_t i = 0;
  for (auto _ : state) {
    in.set(x.data(), 1, columns);
    matmul(pool(), in, {.w = &copies[i++ % copies.size()], .y = y.data(), .y_stride = rows});
  }
  const double bytes = double(state.iterations()) * double(copies[0].bytes());
  state.counters["GB/s"] = benchmark::Counter(bytes * 1e-9, benchmark::Counter::kIsRate);
  state.counters["of_limit"] = benchmark::Counter(bytes / streaming_bytes_per_second(), benchmark::Counter::kIsRate);
}

void prefill(benchmark::State& state, BlockFormat format, int64_t rows, int64_t columns) {
  constexpr int64_t kTokens = 512;
  const auto values = random_floats(rows * columns), x = random_floats(kTokens * columns);
  const auto w = PackedMatrix::pack_f32(format, rows, columns, values.data());
  std::vector<float> y(static_cast<size_t>(kTokens * rows));
  Activations in;
  for (auto _ : state) {
    in.set(x.data(), kTokens, columns);
    matmul(pool(), in, {.w = &*w, .y = y.data(), .y_stride = rows, .bf16_activations = true});
  }
  const double operations = 2.0 * double(rows * columns * kTokens) * double(state.iterations());
  state.counters["GOP/s"] = benchmark::Counter(operations * 1e-9, benchmark::Counter::kIsRate);
}

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512vnni"))) void dot_products(int64_t rounds) {
  typedef int Vector __attribute__((vector_size(64)));
  Vector a[16] = {}, b = {}, c = {};
  for (int64_t i = 0; i < rounds; ++i)
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) asm volatile("vpdpbusd %1, %2, %0" : "+v"(a[j]) : "v"(b), "v"(c));
  for (auto& v : a) benchmark::DoNotOptimize(v);
}
#endif

void limit_dot(benchmark::State& state) {
#if defined(__x86_64__)
  if (!isa_available(Isa::kAvx512)) return state.SkipWithError("no VNNI on this machine");
  constexpr int64_t kRounds = 200000;
  for (auto _ : state) pool().run([](int, int) { dot_products(kRounds); });
  const double operations = double(state.iterations()) * kRounds * 16 * 128 * pool().size();
  state.counters["GOP/s"] = benchmark::Counter(operations * 1e-9, benchmark::Counter::kIsRate);
#else
  state.SkipWithError("x86 only");
#endif
}

void limit_read(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(streaming_bytes_per_second());
  state.counters["GB/s"] = streaming_bytes_per_second() * 1e-9;
}

void limit_tiles(benchmark::State& state, BlockFormat format) {
  double best = 0;
  for (auto _ : state) best = std::max(best, cached_operations_per_second(format));
  state.counters["GOP/s"] = best * 1e-9;
}

void register_all() {
  benchmark::RegisterBenchmark("Limit/StreamingRead", limit_read)->UseRealTime()->Iterations(1);
  benchmark::RegisterBenchmark("Limit/DotProducts", limit_dot)->UseRealTime();
  for (const Format& f : kFormats) {
    benchmark::RegisterBenchmark(cat("Tiles/", f.name).c_str(), limit_tiles, f.id)->UseRealTime()->Iterations(1);
    for (const auto& s : kShapes) {
      const std::string shape = cat("/", f.name, "/", s[0], "x", s[1]);
      benchmark::RegisterBenchmark(("Matvec" + shape).c_str(), matvec, f.id, s[0], s[1])->UseRealTime()->MinTime(0.2);
      if (s[0] < 10000)
        benchmark::RegisterBenchmark(("Prefill512" + shape).c_str(), prefill, f.id, s[0], s[1])->UseRealTime()->MinTime(0.2);
    }
  }
}

}  // namespace
}  // namespace retort

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  retort::register_all();
  benchmark::RunSpecifiedBenchmarks();
}
