// A thread pool for kernels that run for microseconds: the caller works too, nothing is allocated per call, and nobody is
// waited for who has not started.
//
// Layer: base. Thread-safe: a call made while another is in progress (from a task, or from another thread) runs inline.
//
// Work is a list of chunks that the participants claim one by one. A worker joins a call only while it is open; the caller
// closes it when no chunk is left and waits for those who joined. So on a loaded machine, where a worker may not be scheduled
// for milliseconds, the caller simply does the work itself. Idle workers spin for some tens of microseconds, then sleep.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace retort {

class ThreadPool {
 public:
  // `threads` includes the caller; 0: as many as the process may use.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return int(workers_.size()) + 1; }

  // fn(chunk) for every chunk in [0, chunks), begun in this order, on any thread. fn may wait only for chunks before its own that
  // themselves wait for nobody.
  template <class Fn>
  void run_chunks(int64_t chunks, Fn&& fn) {
    execute([](void* f, int64_t chunk) { (*static_cast<std::remove_reference_t<Fn>*>(f))(chunk); },
            const_cast<void*>(static_cast<const void*>(&fn)), chunks);
  }

  // fn(index, count) for every index in [0, count), count = size(): for work that is split by hand.
  template <class Fn>
  void run(Fn&& fn) {
    const int count = size();
    run_chunks(count, [&](int64_t index) { fn(int(index), count); });
  }

  // fn(begin, end) over [0, total) in pieces of at least `grain` items.
  template <class Fn>
  void parallel_for(int64_t total, int64_t grain, Fn&& fn) {
    const int64_t piece = std::max<int64_t>(std::max<int64_t>(grain, 1), (total + 4 * size() - 1) / (4 * size()));
    run_chunks((total + piece - 1) / piece,
               [&](int64_t i) { fn(i * piece, std::min(total, (i + 1) * piece)); });
  }

 private:
  using Task = void (*)(void* context, int64_t chunk);
  void execute(Task task, void* context, int64_t chunks);
  void work();
  void worker_loop();

  // generation << 16 | open | number of workers inside
  std::atomic<uint32_t> state_{0};
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<bool> busy_{false};
  std::atomic<bool> stop_{false};
  Task task_ = nullptr;
  void* context_ = nullptr;
  int64_t chunks_ = 0;
  std::vector<std::thread> workers_;
};

// Processors this process may run on (its affinity mask, not the machine's count).
int usable_processors();

}  // namespace retort
