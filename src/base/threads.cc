#include "base/threads.h"

#include <chrono>
#include <system_error>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace retort {
namespace {

constexpr uint32_t kOpen = 1u << 15;
constexpr uint32_t kInside = kOpen - 1;
// Longer than the serial stretches between two matrix products of a decoding step, far shorter than a scheduler's slice:
// on a machine with more threads than cores every spinning microsecond is stolen from whoever has the work.
constexpr auto kSpin = std::chrono::microseconds(30);

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until ready(state) or the time is up; returns the last state seen.
template <class Ready>
uint32_t spin(const std::atomic<uint32_t>& state, Ready&& ready) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      const uint32_t s = state.load(std::memory_order_acquire);
      if (ready(s)) return s;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return state.load(std::memory_order_acquire);
}

template <class Ready>
uint32_t await(const std::atomic<uint32_t>& state, Ready&& ready) {
  uint32_t s = spin(state, ready);
  while (!ready(s)) {
    state.wait(s, std::memory_order_acquire);
    s = state.load(std::memory_order_acquire);
  }
  return s;
}

}  // namespace

int usable_processors() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, int(std::thread::hardware_concurrency()));
}

ThreadPool::ThreadPool(int threads) {
  if (threads <= 0) threads = usable_processors();
  threads = std::min(threads, 1024);
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { worker_loop(); });
  } catch (const std::system_error&) {  // the machine has no more: fewer do the same work
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  state_.fetch_add(1u << 16);
  state_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::work() {
  for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < chunks_;) task_(context_, i);
}

void ThreadPool::execute(Task task, void* context, int64_t chunks) {
  if (workers_.empty() || chunks <= 1 || busy_.exchange(true, std::memory_order_acquire)) {
    for (int64_t i = 0; i < chunks; ++i) task(context, i);
    return;
  }
  task_ = task;
  context_ = context;
  chunks_ = chunks;
  next_.store(0, std::memory_order_relaxed);
  const uint32_t generation = (state_.load(std::memory_order_relaxed) >> 16) + 1;
  state_.store(generation << 16 | kOpen, std::memory_order_release);
  state_.notify_all();
  work();
  state_.fetch_and(~kOpen, std::memory_order_acq_rel);
  await(state_, [](uint32_t s) { return (s & kInside) == 0; });
  busy_.store(false, std::memory_order_release);
}

void ThreadPool::worker_loop() {
  uint32_t done = 0;  // the last generation this worker took part in
  while (true) {
    uint32_t s = await(state_, [&](uint32_t v) {
      return stop_.load(std::memory_order_relaxed) || ((v & kOpen) && v >> 16 != done);
    });
    if (stop_.load()) return;
    if (!state_.compare_exchange_strong(s, s + 1, std::memory_order_acq_rel)) continue;
    done = s >> 16;
    work();
    const uint32_t left = state_.fetch_sub(1, std::memory_order_acq_rel) - 1;
    if ((left & (kOpen | kInside)) == 0) state_.notify_all();
  }
}

}  // namespace retort
