// Tasks of a student's start, which takes long and has nothing to save: ctrl-C ends it after the tasks that run.
//
// Layer: train.
#pragma once

#include "base/interrupt.h"
#include "train/tasks.h"

namespace retort::train {

template <class Fn>
Status run_start_tasks(ThreadPool& pool, int64_t tasks, Fn&& fn) {
  RETORT_RETURN_IF_ERROR(run_tasks(pool, tasks, [&](int64_t task) {
    if (!interrupted()) fn(task);
  }));
  return interrupted() ? Status(interrupted_error()) : Status();
}

}  // namespace retort::train
