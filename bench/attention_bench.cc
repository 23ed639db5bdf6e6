// Attention at SmolLM2-135M's shape (9 query heads, 3 kv heads of 64): decoding in bytes of cache per second beside a plain
// streaming read, prefill in operations per second. One iteration is one layer.
//
//   attention_bench                       RETORT_THREADS=n (default: all)
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "kernels/attention.h"

namespace retort {
namespace {

constexpr int64_t kHeads = 9, kKvHeads = 3, kDim = 64;

ThreadPool& pool() {
  static ThreadPool p(std::getenv("RETORT_THREADS") ? std::atoi(std::getenv("RETORT_THREADS")) : 0);
  return p;
}

void read_limit(benchmark::State& state) {
  std::vector<uint64_t> data(32 << 20, 1);
  for (auto _ : state) {
    pool().run_chunks(256, [&](int64_t i) {
      const uint64_t* p = data.data() + i * (data.size() / 256);
      uint64_t s[16] = {};
      for (size_t k = 0; k < data.size() / 256; k += 16)
        for (int j = 0; j < 16; ++j) s[j] += p[k + j];
      benchmark::DoNotOptimize(s);
    });
  }
  state.counters["GB/s"] =
      benchmark::Counter(double(state.iterations()) * double(data.size()) * 8e-9, benchmark::Counter::kIsRate);
}

// `layers` caches in turn, as a model's layers are, so that decoding reads memory and not a cache level.
void attend(benchmark::State& state, int64_t tokens, int64_t context, int layers) {
  const int64_t width = kKvHeads * kDim;
  std::vector<std::vector<uint16_t>> caches(size_t(layers), std::vector<uint16_t>(size_t(2 * context * width), 0x3f80));
  std::vector<float> q(size_t(tokens * kHeads * kDim), 0.01f), out(q.size());
  AttentionScratch scratch;
  size_t layer = 0;
  for (auto _ : state) {
    const uint16_t* cache = caches[layer++ % caches.size()].data();
    const CacheSpan span = {cache, cache + context * width, kDim, context * kDim, kDim, context * kDim, 0, context};
    AttentionArgs a;
    a.q = q.data();
    a.q_stride = kHeads * kDim;
    a.tokens = tokens;
    a.first_position = context - tokens;
    a.heads = kHeads;
    a.kv_heads = kKvHeads;
    a.key_dim = a.value_dim = kDim;
    a.cache = {&span, 1};
    a.scale = 0.125f;
    a.out = out.data();
    a.out_stride = kHeads * kDim;
    attention(pool(), a, scratch);
  }
  const double pairs = double(tokens) * (double(context) - double(tokens - 1) / 2);
  const double n = double(state.iterations());
  state.counters["GB/s"] = benchmark::Counter(n * double(context * width) * 4e-9, benchmark::Counter::kIsRate);
  state.counters["GOP/s"] = benchmark::Counter(n * pairs * kHeads * kDim * 4e-9, benchmark::Counter::kIsRate);
}

BENCHMARK(read_limit)->Name("Limit/StreamingRead")->UseRealTime();
BENCHMARK_CAPTURE(attend, decode_128, 1, 128, 30)->UseRealTime();
BENCHMARK_CAPTURE(attend, decode_2048, 1, 2048, 30)->UseRealTime();
BENCHMARK_CAPTURE(attend, decode_8000, 1, 8000, 30)->UseRealTime();
BENCHMARK_CAPTURE(attend, prefill_512, 512, 512, 1)->UseRealTime();
BENCHMARK_CAPTURE(attend, prefill_512_of_4096, 512, 4096, 1)->UseRealTime();

}  // namespace
}  // namespace retort

BENCHMARK_MAIN();
