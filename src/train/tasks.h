// Tasks of torch work spread over the pool.
//
// Layer: train.
#pragma once

#include <torch/torch.h>

#include <algorithm>
#include <exception>
#include <mutex>
#include <string>

#include "base/error.h"
#include "base/threads.h"

namespace retort::train {

// fn(task) for every task, any order, any thread. Where there are fewer tasks than threads, each has its share of them for torch and what asks
// at::parallel_for. What torch throws (memory, mostly) becomes an error.
template <class Fn>
Status run_tasks(ThreadPool& pool, int64_t tasks, Fn&& fn) {
  const int threads = tasks > 0 ? int(std::max<int64_t>(1, pool.size() / tasks)) : 1;
  std::mutex mutex;
  std::string failure;
  pool.run_chunks(tasks, [&](int64_t task) {
    at::set_num_threads(threads);
    try {
      fn(task);
    } catch (const std::exception& e) {
      const std::lock_guard lock(mutex);
      if (failure.empty()) failure = std::string(e.what()).substr(0, std::string(e.what()).find('\n'));
    }
  });
  if (!failure.empty()) return internal_error("training: ", failure);
  return {};
}

}  // namespace retort::train
