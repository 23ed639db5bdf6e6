#include "serve/prompt_cache.h"

#include <algorithm>

#include "base/format.h"

namespace retort::serve {

bool PromptCache::ends_message(std::span<const int> prompt, int64_t begin, int64_t end) const {
  return end - begin >= kLeastRows && tokenizer_.is_eog(prompt[size_t(end - 1)]);
}

int64_t PromptCache::chunk_end(std::span<const int> prompt, int64_t begin) const {
  const int64_t last = std::min(int64_t(prompt.size()), (begin / rows_ + 1) * rows_);
  for (int64_t end = begin + kLeastRows; end < last; ++end) {
    if (ends_message(prompt, begin, end)) return end;
  }
  return last;
}

std::optional<Sequence> PromptCache::find(std::span<const int> prompt, int64_t longer_than) {
  if (bytes_ == 0) return {};
  return states_.find(prompt, longer_than, [&](int64_t length) {
    int64_t end = 0;
    for (int64_t next = chunk_end(prompt, 0); next <= length && next < int64_t(prompt.size()); next = chunk_end(prompt, end)) end = next;
    return end;
  });
}

void PromptCache::after_chunk(std::span<const int> prompt, int64_t begin, const Sequence& state, int64_t& kept) {
  const int64_t end = state.position(), size = int64_t(prompt.size());
  const bool message = ends_message(prompt, begin, end);
  if (bytes_ == 0 || (end % rows_ != 0 && !message)) return;
  const bool last = end == size || chunk_end(prompt, end) == size;  // who asks the same again begins here
  if (!last && end - kept < kEvery && !(message && (kept == 0 || end - kept >= kOfMessages))) return;
  kept = end;
  const int64_t before = states_.stats().states + states_.stats().evicted;
  if (!states_.put(prompt.first(size_t(end)), state)) largest_ = std::max(largest_, state.bytes());
  version_ += states_.stats().states + states_.stats().evicted - before;
}

std::string PromptCache::warning(const StateLayout& layout) {
  if (warned_ || bytes_ == 0) return {};
  int64_t least = layout.fixed_numbers() * int64_t(sizeof(float));
  for (const auto& slot : layout.growing()) least += KvCache::kChunk * KvCache(slot.shape, layout.cache_type()).row_bytes();
  if (largest_ == 0 && least <= bytes_) return {};
  warned_ = true;
  return cat("--cache-ram of ", format_bytes(double(bytes_)), " holds no state of ", format_bytes(double(std::max(least, largest_))),
             ": such prompts are read from their start every time");
}

}  // namespace retort::serve
