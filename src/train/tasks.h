// Tasks of torch work spread over the pool.
//
// Layer: train.
#pragma once

#include <torch/torch.h>

#include <exception>
#include <mutex>
#include <string>

#include "base/error.h"
#include "base/threads.h"

namespace retort::train {

// fn(task) for every task, any order, any thread; torch's own threads stay off. What torch throws (memory, mostly) becomes an error.
template <class Fn>
Status run_tasks(ThreadPool& pool, int64_t tasks, Fn&& fn) {
  std::mutex mutex;
  std::string failure;
  pool.run_chunks(tasks, [&](int64_t task) {
    at::set_num_threads(1);
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
