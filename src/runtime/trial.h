// Tokens fed on trial: one pass over several tokens of which any first part may be kept, to the bit as if the rest had never come.
//
// Layer: runtime. Belongs to one thread. Between a pass and its keep() the engine must live, and the sequence be left alone.
//
//   Trial trial;
//   const BatchItem item{&sequence, tokens, WantLogits::kAll, &trial};   // each row has the bits of a decoding step
//   RETORT_RETURN_IF_ERROR(engine.forward({&item, 1}, sink));
//   trial.keep(sequence, count, pool);                                   // 0 to all of them
//
// Until keep() the sequence's position is the one before the pass, and its recurrences' states have not moved: they are the
// checkpoint. The trial has a replay log of what their updates take (keys, values, decays and the like, nothing that a projection
// would have to compute again), and keep() replays the kept tokens'. Windows, convolutions and `previous` have overwritten rows
// of their rings; the trial has what stood there. Caches that grow with the context are cut.
#pragma once

#include <utility>
#include <vector>

#include "base/threads.h"
#include "runtime/bound_recurrence.h"
#include "runtime/sequence.h"

namespace retort {

class Trial {
 public:
  // Tokens of the latest pass that nothing is decided about.
  int64_t tokens() const { return tokens_; }
  void keep(Sequence& sequence, int64_t count, ThreadPool& pool);
  // What its buffers take. They only grow: after warm-up nothing is allocated.
  int64_t bytes() const { return int64_t(numbers_.capacity() * sizeof(float)); }

  // The forward pass reports here, one operation after another.
  void begin(int64_t tokens);
  // Puts `values` where a ring has room for one of the pass's tokens.
  void overwrite(Sequence& sequence, float* row, const float* values, int64_t columns, int64_t token);
  // rows: the pass's tokens.
  void log(const StateLayout::Slot& slot, const BoundRecurrence& recurrence, const RecurrenceRows& rows);

 private:
  struct Overwritten {
    int64_t token, at, saved, columns;  // where in the sequence's fixed block, where in numbers_
  };
  struct Log {
    BoundRecurrence recurrence;
    int64_t state;                                 // where in the sequence's fixed block
    int64_t saved[RecurrenceRows::kWrittenCount];  // where in numbers_, or -1
  };
  int64_t save(const float* values, int64_t count);

  int64_t tokens_ = 0;
  std::vector<float> numbers_;
  std::vector<Overwritten> overwritten_;
  std::vector<Log> logs_;
  std::vector<std::pair<size_t, int>> heads_;  // of all logs: which log, which kv head
};

}  // namespace retort
