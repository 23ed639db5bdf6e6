// One pass of the model: which rows it has, and what becomes of their logits.
#include <algorithm>

#include "serve/scheduler_slot.h"

namespace retort::serve {

void Scheduler::collect_rows() {
  rows_.clear();
  items_.clear();
  int64_t decoding = 0;
  for (const auto& slot : slots_) {
    slot->chunk = slot->drawn = 0;
    slot->guesses.clear();
    decoding += slot->group && !slot->reading();
  }
  // Guesses share the rows that a pass has nearly for free.
  const int64_t guesses = options_.new_draft && decoding > 0 ? std::min(options_.most_guesses, options_.judged_rows / decoding - 1) : 0;
  for (const auto& slot : slots_) {
    if (slot->group && !slot->reading()) add_decoding_rows(*slot, guesses);
  }
  int64_t left = options_.prefill_rows;
  const size_t first = turn_;
  for (size_t i = 0; i < slots_.size(); ++i) {
    const size_t at = (first + i) % slots_.size();
    Slot& slot = *slots_[at];
    if (!slot.group || !slot.reading()) continue;
    continue_from_cache(slot);
    const int64_t begin = slot.sequence->position(), count = cache_.chunk_end(slot.group->request.prompt, begin) - begin;
    if (count > left) break;  // its turn comes first in the next pass
    left -= count;
    turn_ = (at + 1) % slots_.size();
    slot.chunk = count;
    add_prompt_rows(slot);
  }
}

void Scheduler::add_decoding_rows(Slot& slot, int64_t guesses) {
  slot.tokens.assign(1, slot.choice->tokens().back());
  guess(slot, std::min({guesses, slot.trust, slot.choice->left() - 1}));
  for (const Guess& g : slot.guesses) slot.tokens.push_back(g.token);
  if (slot.guesses.empty()) items_.push_back({&*slot.sequence, slot.tokens, WantLogits::kLast});
  else items_.push_back({&*slot.sequence, slot.tokens, WantLogits::kAll, &slot.trial});
  for (size_t i = 0; i < slot.tokens.size(); ++i) rows_.push_back({&slot, -1, true, int64_t(i)});
}

// A draft that has the text still to read reads a chunk of it a pass, as prompts do: the others wait for no more than that.
void Scheduler::guess(Slot& slot, int64_t count) {
  if (count <= 0) return;
  const std::vector<int>& text = slot.choice->tokens();
  if (!slot.draft) slot.draft = options_.new_draft();
  const auto ready = slot.draft->catch_up(text, options_.prefill_rows);
  const bool fine = ready.ok() && (!*ready || slot.draft->propose(text, count, slot.guesses).ok());
  if (!fine) slot.guesses.clear(), slot.trust = 0;  // the text goes on without
}

// Somebody may have read more of this prompt since it was looked up last, so also in the middle of it.
void Scheduler::continue_from_cache(Slot& slot) {
  if (!slot.group->uses_cache() || slot.looked == cache_.version()) return;
  slot.looked = cache_.version();
  auto known = cache_.find(slot.group->request.prompt, slot.sequence->position());
  if (!known) return;
  slot.stats.cached_tokens += known->position() - slot.sequence->position();
  slot.sequence = std::move(*known);
  slot.exact = true;
  slot.cached = slot.sequence->position();
}

void Scheduler::add_prompt_rows(Slot& slot) {
  const auto& prompt = slot.group->request.prompt;
  const int64_t begin = slot.sequence->position(), count = slot.chunk;
  const bool last = count == slot.prompt_left();
  const bool scores = slot.scores_prompt();
  items_.push_back({&*slot.sequence, std::span(prompt).subspan(size_t(begin), size_t(count)),
                    scores ? WantLogits::kAll : last ? WantLogits::kLast : WantLogits::kNone});
  if (!scores) {
    if (last) rows_.push_back({&slot, -1, true});
    return;
  }
  auto& entries = slot.update.prompt;
  if (begin == 0) entries.push_back({prompt[0], false, 0, {}});
  for (int64_t t = begin; t < begin + count; ++t) {
    const bool draws = t + 1 == int64_t(prompt.size());
    rows_.push_back({&slot, draws ? -1 : int64_t(entries.size()), draws});
    if (!draws) entries.push_back({prompt[size_t(t + 1)], false, 0, {}});
  }
}

// Rows with guesses are looked at in their order, by one thread; all others are on their own.
void Scheduler::take_rows(const LogitsRows& logits) {
  const size_t vocabulary = size_t(model_.config().vocab_size);
  runs_.clear();
  for (int64_t r = 0; r < logits.count; ++r) {
    if (r > 0 && rows_[size_t(logits.first + r)].guess > 0) ++runs_.back().second;
    else runs_.emplace_back(r, r + 1);
  }
  engine_.pool().run_chunks(int64_t(runs_.size()), [&](int64_t run) {
    for (int64_t r = runs_[size_t(run)].first; r < runs_[size_t(run)].second; ++r) {
      take_logits(rows_[size_t(logits.first + r)], {logits.data + size_t(r) * vocabulary, vocabulary});
    }
  });
}

// On any thread of the pool; prompt rows of one slot touch different entries.
void Scheduler::take_logits(const Row& row, std::span<const float> logits) {
  Slot& slot = *row.slot;
  if (row.scores >= 0) {
    ScoredToken& entry = slot.update.prompt[size_t(row.scores)];
    entry = score(logits, entry.token, slot.group->request.top_logprobs);
  }
  if (!row.draws) return;
  if (row.guess > 0) {
    const bool follows = slot.drawn == row.guess && !slot.update.finish && slot.choice->tokens().back() == slot.tokens[size_t(row.guess)];
    if (!follows) return;
  }
  if (slot.chunk > 0 && slot.group->request.choices > 1) slot.group->prompt_logits.assign(logits.begin(), logits.end());
  slot.choice->draw(logits, slot.update);
  ++slot.drawn;
}

void Scheduler::pass() {
  collect_rows();
  if (items_.empty()) return;
  const auto started = Clock::now();
  const Status status = engine_.forward(items_, [&](const LogitsRows& logits) { take_rows(logits); });
  if (!status.ok()) return fail_everything(status.error().message);
  after_pass(seconds_since(started));
}

void Scheduler::after_pass(double seconds) {
  std::vector<Slot*> busy;
  for (const auto& slot : slots_) {
    if (!slot->group) continue;
    busy.push_back(slot.get());
    if (slot->chunk > 0) after_chunk(*slot);
    if (slot->guesses.empty()) continue;
    slot->trial.keep(*slot->sequence, slot->drawn, engine_.pool());
    const int64_t right = slot->drawn - 1;
    slot->trust = std::min(options_.most_guesses, 2 * right + 1);
    slot->stats.drafted += int64_t(slot->guesses.size());
    slot->stats.drafts_accepted += right;
  }
  count_pass(seconds, busy);
  for (Slot* slot : busy) {
    if (slot->chunk > 0 && !slot->reading()) fork(*slot);
    deliver(*slot);
  }
}

// A state that came from elsewhere than reading is not for others.
void Scheduler::after_chunk(Slot& slot) {
  if (!slot.exact || !slot.group->request.cache) return;
  cache_.after_chunk(slot.group->request.prompt, slot.sequence->position() - slot.chunk, *slot.sequence, slot.cached);
  warn_of_cache();
}

void Scheduler::warn_of_cache() {
  if (!options_.warn) return;
  if (const std::string warning = cache_.warning(*model_.layout()); !warning.empty()) options_.warn(warning);
}

void Scheduler::count_pass(double seconds, std::span<Slot* const> busy) {
  int64_t read = 0, rows = 0, decoded = 0;
  std::lock_guard lock(mutex_);
  for (const Slot* slot : busy) {
    infos_[size_t(slot->id)] = {slot->id, true, slot->sequence->position(), slot->sequence->bytes()};
    read += slot->chunk;
    if (slot->chunk > 0 || slot->drawn == 0) continue;  // it waits for its turn to read
    ++decoded;
    rows += int64_t(slot->tokens.size());
    if (slot->guesses.empty()) continue;
    ++counts_.drafts;
    counts_.drafted += int64_t(slot->guesses.size());
    counts_.drafts_accepted += slot->drawn - 1;
  }
  const double share = seconds / double(std::max<int64_t>(1, read + rows));
  counts_.prompt_tokens += read;
  counts_.prompt_seconds += share * double(read);
  counts_.made_seconds += share * double(rows);
  counts_.passes += decoded > 0;
  counts_.decoding_rows += decoded;
  counts_.cache = cache_.stats();
}

// The prompt has been read: the other choices start from here.
void Scheduler::fork(Slot& slot) {
  Group& group = *slot.group;
  slot.first_token = Clock::now();
  slot.stats.prompt_seconds = std::chrono::duration<double>(slot.first_token - slot.started).count();
  group.forked = true;
  if (group.request.choices == 1) return;
  group.prompt_state = *slot.sequence;
  group.prompt_stats = slot.stats;
  std::lock_guard lock(mutex_);
  for (int i = 1; i < group.request.choices; ++i) forks_.emplace_back(slot.group, i);
}

}  // namespace retort::serve
