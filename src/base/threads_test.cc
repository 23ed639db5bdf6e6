#include "base/threads.h"

#include <gtest/gtest.h>

#include <numeric>

#include <sys/resource.h>

namespace retort {
namespace {

TEST(ThreadPool, EveryChunkOnceWhateverTheThreads) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.size(), threads);
    for (int round = 0; round < 3000; ++round) {
      const int n = round % 40;
      std::vector<std::atomic<int>> seen(n);
      pool.run_chunks(n, [&](int64_t i) { seen[i].fetch_add(1); });
      for (int i = 0; i < n; ++i) ASSERT_EQ(seen[i].load(), 1) << threads << " threads, round " << round;
    }
  }
}

TEST(ThreadPool, ParallelForCoversTheRangeAndRunGivesEveryIndex) {
  ThreadPool pool(3);
  for (int64_t total : {0, 1, 5, 100, 1001}) {
    std::vector<int> seen(total, 0);
    pool.parallel_for(total, 7, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ++seen[i];
    });
    EXPECT_EQ(std::accumulate(seen.begin(), seen.end(), 0), total);
    EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), total);
  }
  std::atomic<int> mask{0};
  pool.run([&](int index, int count) {
    EXPECT_EQ(count, 3);
    mask |= 1 << index;
  });
  EXPECT_EQ(mask.load(), 7);
}

TEST(ThreadPool, NestedAndConcurrentCallsRunInline) {
  ThreadPool pool(2);
  std::atomic<int> inner{0};
  pool.run_chunks(4, [&](int64_t) { pool.run_chunks(5, [&](int64_t) { ++inner; }); });
  EXPECT_EQ(inner.load(), 20);
  std::atomic<int> total{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int i = 0; i < 500; ++i) pool.run_chunks(3, [&](int64_t) { ++total; });
    });
  for (auto& t : callers) t.join();
  EXPECT_EQ(total.load(), 4 * 500 * 3);
}

TEST(ThreadPool, SleepingWorkersWakeUpAndPoolsEndAtOnce) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(4);
  ThreadPool pool(2);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  std::atomic<int> count{0};
  pool.run_chunks(2, [&](int64_t) {
    ++count;
    // Only passes when both chunks are in progress at once, that is when the worker woke up.
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (count < 2 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  });
  EXPECT_EQ(count.load(), 2);
}

// Stacks are address space: a limit of it is a machine that has no thousand threads. (Sanitizers need more of it than any limit.)
#if !defined(RETORT_SANITIZED)
TEST(ThreadPool, FewerThreadsWhereTheMachineRefusesMore) {
  const auto limited = [] {
    const rlimit limit{rlim_t{1} << 30, rlim_t{1} << 30};
    setrlimit(RLIMIT_AS, &limit);
    ThreadPool pool(1000);
    std::atomic<int> count{0};
    pool.run_chunks(50, [&](int64_t) { ++count; });
    std::_Exit(pool.size() > 1 && pool.size() < 1000 && count.load() == 50 ? 0 : 1);
  };
  EXPECT_EXIT(limited(), testing::ExitedWithCode(0), "");
}
#endif

}  // namespace
}  // namespace retort
