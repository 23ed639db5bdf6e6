// A cache of logits (logit_cache.h) as the ranks of a run have it: all of them read, rank 0 writes.
//
// Layer: train, torch-free. has() and read() may be called from several threads; the rest belongs to one loop. begin() and end() are collectives
// (process_group.h).
#pragma once

#include <map>
#include <memory>

#include "train/logit_cache.h"
#include "train/process_group.h"

namespace retort::train {

class SharedCache {
 public:
  SharedCache(std::shared_ptr<LogitCache> cache, ProcessGroup& group) : cache_(std::move(cache)), group_(group) {}

  const LogitShape& shape() const { return cache_->shape(); }
  // A batch's life: begin(), its rows, end(). The batch outlives it.
  Status begin(const Batch& batch);
  // Whether all ranks can read a row: the same answer everywhere.
  bool has(int row) const { return place(row) < there_; }
  bool has_all() const { return has(batch_->rows - 1); }
  Result<TopLogits> read(int row) const { return cache_->read(place(row), row_hash(*batch_, row)); }
  // What the teacher says of a row of this rank's that not all can read. `logits` becomes what read() would give.
  Status keep(int row, TopLogits& logits);
  // Rank 0 adds the rows to the file, those of all ranks, in their order. Rows before those of a resumed run may be missing, when the folder was
  // removed meanwhile: then nothing is added.
  Status end();

 private:
  int64_t place(int row) const { return batch_->number * batch_->rows + row; }
  Status bring(int row);

  std::shared_ptr<LogitCache> cache_;
  ProcessGroup& group_;
  const Batch* batch_ = nullptr;
  int64_t there_ = 0;                  // rows that every rank can read
  std::map<int, TopLogits> kept_;      // of this rank's rows
  TopLogits brought_;                  // on rank 0
};

}  // namespace retort::train
