#include "train/shared_cache.h"

#include <span>
#include <utility>

namespace retort::train {

Status SharedCache::begin(const Batch& batch) {
  batch_ = &batch;
  kept_.clear();
  RETORT_TRY(const double rows, least(group_, double(cache_->rows())));
  there_ = int64_t(rows);
  return {};
}

Status SharedCache::keep(int row, TopLogits& logits) {
  kept_[row] = logits;
  RETORT_TRY(logits, cache_->rounded(logits));
  return {};
}

Status SharedCache::end() {
  if (has_all()) return {};
  return led(group_, [&](const Together& ask) -> Status {
    for (int row = 0; row < batch_->rows; ++row) {
      if (place(row) != cache_->rows()) continue;
      RETORT_RETURN_IF_ERROR(ask(row));
      RETORT_RETURN_IF_ERROR(cache_->append(row_hash(*batch_, row), brought_));
    }
    return cache_->flush();
  }, [&](int64_t row) { return bring(int(row)); });
}

// A row of whichever rank's, to rank 0.
Status SharedCache::bring(int row) {
  const int owner = row / dealt(group_, batch_->rows);
  const bool here = group_.rank() == owner;
  if (here) brought_ = std::move(kept_[row]);
  if (owner == 0 || (!here && !group_.leads())) return {};
  if (!here) {
    const size_t seq = size_t(shape().seq), k = size_t(shape().top_k);
    brought_.ids.resize(seq * k), brought_.log_p.resize(seq * k), brought_.rest.resize(seq);
  }
  for (const std::span<std::byte> bytes : {std::as_writable_bytes(std::span<int32_t>(brought_.ids)), std::as_writable_bytes(std::span<float>(brought_.log_p)),
                                           std::as_writable_bytes(std::span<float>(brought_.rest))}) {
    RETORT_RETURN_IF_ERROR(here ? group_.send(0, bytes) : group_.receive(owner, bytes));
  }
  return {};
}

}  // namespace retort::train
