#include "runtime/trial.h"

#include <cstring>

#include "base/error.h"

namespace retort {

void Trial::begin(int64_t tokens) {
  RETORT_CHECK(tokens_ == 0, "a trial has to be decided before the next one begins");
  tokens_ = tokens;
  numbers_.clear();
  overwritten_.clear();
  logs_.clear();
  heads_.clear();
}

int64_t Trial::save(const float* values, int64_t count) {
  numbers_.insert(numbers_.end(), values, values + count);
  return int64_t(numbers_.size()) - count;
}

void Trial::overwrite(Sequence& sequence, float* row, const float* values, int64_t columns, int64_t token) {
  overwritten_.push_back({token, row - sequence.fixed_numbers().data(), save(row, columns), columns});
  std::memcpy(row, values, size_t(columns) * sizeof(float));
}

void Trial::log(const StateLayout::Slot& slot, const BoundRecurrence& recurrence, const RecurrenceRows& rows) {
  Log log{recurrence, slot.offset, {}};
  for (int i = 0; i < RecurrenceRows::kWrittenCount; ++i) {
    const float* values = rows.written[i];
    log.saved[i] = values ? save(values, tokens_ * recurrence.columns(RecurrenceRows::Written(i))) : -1;
  }
  for (int g = 0; g < recurrence.kv_heads(); ++g) heads_.emplace_back(logs_.size(), g);
  logs_.push_back(log);
}

void Trial::keep(Sequence& sequence, int64_t count, ThreadPool& pool) {
  RETORT_CHECK(count >= 0 && count <= tokens_, "a trial of ", tokens_, " tokens cannot keep ", count);
  float* fixed = sequence.fixed_numbers().data();
  for (auto row = overwritten_.rbegin(); row != overwritten_.rend(); ++row) {  // a row overwritten twice ends as it began
    if (row->token < count) continue;
    std::memcpy(fixed + row->at, numbers_.data() + row->saved, size_t(row->columns) * sizeof(float));
  }
  const int64_t position = sequence.position();
  pool.run_chunks(count > 0 ? int64_t(heads_.size()) : 0, [&](int64_t i) {
    const auto [index, g] = heads_[size_t(i)];
    const Log& log = logs_[index];
    RecurrenceRows rows;
    for (int j = 0; j < RecurrenceRows::kWrittenCount; ++j) {
      if (log.saved[j] >= 0) rows.written[j] = numbers_.data() + log.saved[j];
    }
    log.recurrence.step(g, count, position, rows, fixed + log.state + g * log.recurrence.state_size(), nullptr, nullptr);
  });
  for (KvCache& cache : sequence.caches()) cache.truncate(position + count);
  sequence.set_position(position + count);
  tokens_ = 0;
}

}  // namespace retort
