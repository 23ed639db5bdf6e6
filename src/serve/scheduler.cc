#include "serve/scheduler.h"

#include <algorithm>
#include <limits>
#include <new>

namespace retort::serve {

// A request and what its choices share.
struct Scheduler::Group {
  uint64_t id;
  GenerationRequest request;
  GenerationSink sink;
  bool cancelled = false;            // under the scheduler's mutex
  int left;                          // choices that are not over
  bool forked = false;               // the prompt has been read
  std::optional<Sequence> prompt_state;  // after the prompt, for choices 1 and up
  std::vector<float> prompt_logits;
  GenerationStats prompt_stats;
};

struct Scheduler::Slot {
  int id;
  bool busy = false;                 // under the scheduler's mutex
  bool ends = false;                 // what runs is to end; under the mutex too
  std::optional<Sequence> sequence;
  std::vector<int> kept;             // idle with a state: its tokens
  std::shared_ptr<Group> group;
  std::optional<Choice> choice;
  GenerationUpdate update;
  GenerationStats stats;
  Clock::time_point started, first_token;
  int64_t chunk = 0;                 // rows of its prompt in this pass
  int64_t counted = 0;               // made tokens that are in the counts

  int64_t prompt_left() const { return int64_t(group->request.prompt.size()) - sequence->position(); }
  bool reading() const { return prompt_left() > 0; }
  bool scores_prompt() const { return group->request.prompt_logprobs && choice->index() == 0; }
};

// A row of a pass that asked for logits.
struct Scheduler::Row {
  Slot* slot;
  int64_t scores = -1;  // the entry of update.prompt that these logits score, or -1
  bool draws = false;
};

Scheduler::Scheduler(std::shared_ptr<const Model> model, ThreadPool& pool, EngineOptions engine, Tokenizer tokenizer, SchedulerOptions options)
    : options_(options), tokenizer_(std::move(tokenizer)), model_(*model), engine_(std::move(model), pool, engine) {
  for (int i = 0; i < options.parallel; ++i) {
    slots_.push_back(std::make_unique<Slot>());
    slots_.back()->id = i;
    infos_.push_back({i, false, 0, 0});
  }
  thread_ = std::thread([this] { run(); });
}

Scheduler::~Scheduler() { stop(Clock::now()); }

int64_t Scheduler::room(const GenerationRequest& request) const {
  // The last token is never consumed.
  return options_.context > 0 ? options_.context - int64_t(request.prompt.size()) + 1 : std::numeric_limits<int64_t>::max();
}

Status Scheduler::check(const GenerationRequest& request) const {
  if (request.prompt.empty()) return invalid("the prompt is empty");
  const int vocabulary = model_.config().vocab_size;
  for (const int token : request.prompt) {
    if (token < 0 || token >= vocabulary) return invalid("the prompt: token ", token, " is outside the vocabulary of ", vocabulary);
  }
  if (options_.context > 0 && int64_t(request.prompt.size()) > options_.context) {
    return invalid("the prompt has ", request.prompt.size(), " tokens; this server's context is ", options_.context);
  }
  if (request.slot >= options_.parallel) return invalid("slot ", request.slot, " does not exist; there are 0 to ", options_.parallel - 1);
  return validate(request.sampling);
}

Scheduler::Tickets Scheduler::submit(std::vector<Job> jobs) {
  std::lock_guard lock(mutex_);
  Tickets out;
  // What free slots will take at once does not have to wait.
  const auto free = std::count_if(slots_.begin(), slots_.end(), [](const auto& slot) { return !slot->busy; });
  if (stopping_) out.refusal = Refusal::kStopping;
  else if (queue_.size() + jobs.size() > size_t(options_.queue) + size_t(free)) out.refusal = Refusal::kFull;
  if (out.refusal != Refusal::kNone) {
    counts_.refused += int64_t(jobs.size());
    return out;
  }
  for (Job& job : jobs) {
    auto group = std::make_shared<Group>();
    group->id = ++last_id_;
    group->left = job.request.choices;
    group->request = std::move(job.request);
    group->sink = std::move(job.sink);
    groups_[group->id] = group;
    queue_.push_back(group);
    out.ids.push_back(group->id);
  }
  counts_.waiting = int(queue_.size());
  wake_.notify_one();
  return out;
}

void Scheduler::cancel(uint64_t id) {
  std::lock_guard lock(mutex_);
  if (const auto found = groups_.find(id); found != groups_.end()) found->second->cancelled = true;
  wake_.notify_one();
}

Status Scheduler::end_slot(int id) {
  if (id < 0 || id >= options_.parallel) return invalid("slot ", id, " does not exist; there are 0 to ", options_.parallel - 1);
  std::lock_guard lock(mutex_);
  slots_[size_t(id)]->ends = slots_[size_t(id)]->busy;
  return {};
}

SchedulerCounts Scheduler::counts() const {
  std::lock_guard lock(mutex_);
  return counts_;
}

std::vector<SlotInfo> Scheduler::slots() const {
  std::lock_guard lock(mutex_);
  return infos_;
}

Result<const Scheduler::Slot*> Scheduler::idle_slot(int id) const {
  if (id < 0 || id >= options_.parallel) return invalid("slot ", id, " does not exist; there are 0 to ", options_.parallel - 1);
  if (slots_[size_t(id)]->busy) return invalid("slot ", id, " is busy");
  return slots_[size_t(id)].get();
}

Result<SavedState> Scheduler::copy_slot(int id) const {
  std::lock_guard lock(mutex_);
  RETORT_TRY(const Slot* slot, idle_slot(id));
  if (!slot->sequence) return invalid("slot ", id, " has no state: a request keeps its own only when it names the slot (id_slot)");
  return SavedState{slot->kept, *slot->sequence};
}

Status Scheduler::put_slot(int id, std::optional<SavedState> state) {
  std::lock_guard lock(mutex_);
  RETORT_TRY([[maybe_unused]] const Slot* idle, idle_slot(id));
  const int64_t tokens = state ? state->sequence.position() : 1;
  if (tokens < 1) return invalid("the state is that of no token");  // whatever its numbers are, every prompt would go on from them
  if (options_.context > 0 && tokens > options_.context) return invalid("the state has ", tokens, " tokens; this server's context is ", options_.context);
  Slot& slot = *slots_[size_t(id)];
  slot.sequence.reset();
  slot.kept.clear();
  if (state) {
    slot.sequence = std::move(state->sequence);
    slot.kept = std::move(state->tokens);
  }
  infos_[size_t(id)] = {id, false, slot.sequence ? slot.sequence->position() : 0, slot.sequence ? slot.sequence->bytes() : 0};
  return {};
}

void Scheduler::stop(Clock::time_point deadline) {
  if (!thread_.joinable()) return;
  {
    std::unique_lock lock(mutex_);
    stopping_ = true;
    idle_.wait_until(lock, deadline, [&] { return groups_.empty(); });
    for (auto& [id, group] : groups_) group->cancelled = true;
    wake_.notify_one();
    idle_.wait(lock, [&] { return groups_.empty(); });
    quit_ = true;
    wake_.notify_one();
  }
  thread_.join();
}

bool Scheduler::nothing_to_do() const {
  return queue_.empty() && forks_.empty() && std::none_of(slots_.begin(), slots_.end(), [](const auto& slot) { return slot->busy; });
}

void Scheduler::run() {
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return quit_ || !nothing_to_do(); });
      if (quit_) return;
    }
    try {
      end_cancelled_and_late();
      admit();
      pass();
    } catch (const std::bad_alloc&) {
      fail_everything("out of memory");  // of the requests that run; those that wait may be smaller
    }
  }
}

void Scheduler::end_cancelled_and_late() {
  const auto now = Clock::now();
  const auto reason = [&](const Group& group, bool made) -> std::optional<Finish> {
    if (group.cancelled) return Finish::kCancelled;
    if (group.request.deadline && now > *group.request.deadline) return made ? Finish::kLength : Finish::kLate;
    return std::nullopt;
  };
  std::vector<std::tuple<std::shared_ptr<Group>, int, Finish>> waiting;
  std::vector<std::pair<Slot*, Finish>> running;
  {
    std::lock_guard lock(mutex_);
    std::erase_if(queue_, [&](const auto& group) {
      const auto why = reason(*group, false);
      if (why) waiting.emplace_back(group, -1, *why);
      return why.has_value();
    });
    std::erase_if(forks_, [&](const auto& fork) {
      const auto why = reason(*fork.first, false);
      if (why) waiting.emplace_back(fork.first, fork.second, *why);
      return why.has_value();
    });
    for (const auto& slot : slots_) {
      if (!slot->busy) continue;
      const bool made = slot->choice->made() > 0;
      if (const auto why = reason(*slot->group, made)) running.emplace_back(slot.get(), *why);
      else if (slot->ends && made) running.emplace_back(slot.get(), Finish::kLength);
    }
  }
  for (const auto& [group, choice, why] : waiting) end_waiting(group, choice, why, "");
  for (const auto& [slot, why] : running) end_running(*slot, why, "");
}

Scheduler::Slot* Scheduler::free_slot(int wanted) {
  if (wanted >= 0) return slots_[size_t(wanted)]->busy ? nullptr : slots_[size_t(wanted)].get();
  Slot* with_state = nullptr;  // somebody's kept state goes last
  for (const auto& slot : slots_) {
    if (slot->busy) continue;
    if (!slot->sequence) return slot.get();
    with_state = slot.get();
  }
  return with_state;
}

// Choices of prompts already read first, then requests in the order of their arrival; one that waits for its own slot holds up nobody.
void Scheduler::admit() {
  for (;;) {
    std::shared_ptr<Group> group;
    int choice = 0;
    Slot* slot = nullptr;
    {
      std::lock_guard lock(mutex_);
      if (!forks_.empty() && (slot = free_slot(-1))) {
        std::tie(group, choice) = forks_.front();
        forks_.pop_front();
      } else {
        const auto next = std::find_if(queue_.begin(), queue_.end(), [&](const auto& g) { return (slot = free_slot(g->request.slot)) != nullptr; });
        if (next == queue_.end()) return;
        group = *next;
        queue_.erase(next);
        counts_.waiting = int(queue_.size());
      }
      slot->busy = true;
      slot->ends = false;
      ++counts_.running;
    }
    start(*slot, std::move(group), choice);
  }
}

void Scheduler::start(Slot& slot, std::shared_ptr<Group> group, int choice) {
  const GenerationRequest& request = group->request;
  slot.started = slot.first_token = Clock::now();
  slot.stats = {};
  slot.update = {};
  slot.update.choice = choice;
  slot.counted = 0;
  if (request.json && token_bytes_.empty()) token_bytes_ = bytes_of_tokens(tokenizer_);
  slot.choice.emplace(request, choice, room(request), tokenizer_, token_bytes_);
  slot.group = std::move(group);
  // A kept state is continued where the request says so and its tokens begin the prompt. One token at least has to be computed.
  const bool continues = choice == 0 && request.slot >= 0 && !request.prompt_logprobs && slot.sequence &&
                         slot.sequence->position() < int64_t(request.prompt.size()) &&
                         std::equal(slot.kept.begin(), slot.kept.begin() + slot.sequence->position(), request.prompt.begin());
  slot.kept.clear();
  if (choice > 0) {
    slot.sequence = slot.group->prompt_state;
    slot.stats = slot.group->prompt_stats;
    slot.choice->draw(slot.group->prompt_logits, slot.update);
    deliver(slot);
    return;
  }
  if (!continues) slot.sequence.emplace(model_.new_sequence());
  slot.stats.prompt_tokens = int64_t(request.prompt.size());
  slot.stats.cached_tokens = slot.sequence->position();
}

void Scheduler::collect_rows() {
  rows_.clear();
  items_.clear();
  for (const auto& slot : slots_) {
    slot->chunk = 0;
    if (!slot->group || slot->reading()) continue;
    items_.push_back({&*slot->sequence, std::span(slot->choice->tokens()).last(1), WantLogits::kLast});
    rows_.push_back({slot.get(), -1, true});
  }
  int64_t left = options_.prefill_rows;
  const size_t first = turn_;
  for (size_t i = 0; i < slots_.size(); ++i) {
    const size_t at = (first + i) % slots_.size();
    Slot& slot = *slots_[at];
    if (!slot.group || !slot.reading()) continue;
    const int64_t begin = slot.sequence->position();
    const int64_t count = std::min(slot.prompt_left(), options_.prefill_rows - begin % options_.prefill_rows);
    if (count > left) break;  // its turn comes first in the next pass
    left -= count;
    turn_ = (at + 1) % slots_.size();
    slot.chunk = count;
    const auto& prompt = slot.group->request.prompt;
    const bool last = count == slot.prompt_left();
    const bool scores = slot.scores_prompt();
    items_.push_back({&*slot.sequence, std::span(prompt).subspan(size_t(begin), size_t(count)),
                      scores ? WantLogits::kAll : last ? WantLogits::kLast : WantLogits::kNone});
    if (scores) {
      auto& entries = slot.update.prompt;
      if (begin == 0) entries.push_back({prompt[0], false, 0, {}});
      for (int64_t t = begin; t < begin + count; ++t) {
        const bool draws = t + 1 == int64_t(prompt.size());
        rows_.push_back({&slot, draws ? -1 : int64_t(entries.size()), draws});
        if (!draws) entries.push_back({prompt[size_t(t + 1)], false, 0, {}});
      }
    } else if (last) {
      rows_.push_back({&slot, -1, true});
    }
  }
}

// On any thread of the pool; rows of one slot touch different entries.
void Scheduler::take_logits(const Row& row, std::span<const float> logits) {
  Slot& slot = *row.slot;
  if (row.scores >= 0) {
    ScoredToken& entry = slot.update.prompt[size_t(row.scores)];
    entry = score(logits, entry.token, slot.group->request.top_logprobs);
  }
  if (!row.draws) return;
  if (slot.chunk > 0 && slot.group->request.choices > 1) slot.group->prompt_logits.assign(logits.begin(), logits.end());
  slot.choice->draw(logits, slot.update);
}

void Scheduler::pass() {
  collect_rows();
  if (items_.empty()) return;
  const auto started = Clock::now();
  const size_t vocabulary = size_t(model_.config().vocab_size);
  const Status status = engine_.forward(items_, [&](const LogitsRows& logits) {
    engine_.pool().run_chunks(logits.count, [&](int64_t r) {
      take_logits(rows_[size_t(logits.first + r)], {logits.data + size_t(r) * vocabulary, vocabulary});
    });
  });
  if (!status.ok()) return fail_everything(status.error().message);
  after_pass(seconds_since(started));
}

void Scheduler::after_pass(double seconds) {
  int64_t read = 0, decoded = 0;
  for (const auto& slot : slots_) {
    if (!slot->group) continue;
    (slot->chunk > 0 ? read : decoded) += slot->chunk > 0 ? slot->chunk : slot->reading() ? 0 : 1;
  }
  std::vector<Slot*> busy;
  for (const auto& slot : slots_) {
    if (slot->group) busy.push_back(slot.get());
  }
  {
    std::lock_guard lock(mutex_);
    const double share = seconds / double(std::max<int64_t>(1, read + decoded));
    counts_.prompt_tokens += read;
    counts_.prompt_seconds += share * double(read);
    counts_.made_seconds += share * double(decoded);
    counts_.passes += decoded > 0;
    counts_.decoding_rows += decoded;
    for (const Slot* slot : busy) infos_[size_t(slot->id)] = {slot->id, true, slot->sequence->position(), slot->sequence->bytes()};
  }
  for (Slot* slot : busy) {
    if (slot->chunk > 0 && !slot->reading()) fork(*slot);
    deliver(*slot);
  }
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

void Scheduler::tell(const Group& group, const GenerationUpdate& update) {
  try {
    group.sink(update);
  } catch (const std::bad_alloc&) {  // whoever listens has lost a part; the others go on
  }
}

// Hands the update over, and frees the slot when it was the last.
void Scheduler::deliver(Slot& slot) {
  GenerationUpdate update = std::exchange(slot.update, {});
  slot.update.choice = update.choice;
  std::unique_lock lock(mutex_);
  counts_.made_tokens += slot.choice->made() - std::exchange(slot.counted, slot.choice->made());
  if (!update.finish && update.text.empty() && update.tokens.empty() && update.prompt.empty()) return;
  const std::shared_ptr<Group> group = slot.group;
  if (update.finish) {
    slot.stats.made_tokens = slot.choice->made();
    slot.stats.made_seconds = seconds_since(slot.first_token);
    update.stats = slot.stats;
    if (update.choice == 0) counts_.cached_tokens += slot.stats.cached_tokens;
    if (group->request.slot >= 0 && update.choice == 0 && update.finish != Finish::kFailed) {
      slot.kept = slot.choice->tokens();
      slot.kept.resize(size_t(slot.sequence->position()));
    } else {
      slot.sequence.reset();
    }
    slot.choice.reset();
    slot.group.reset();
    slot.busy = false;
    --counts_.running;
    infos_[size_t(slot.id)] = {slot.id, false, int64_t(slot.kept.size()), slot.sequence ? slot.sequence->bytes() : 0};
  }
  lock.unlock();
  if (update.finish) choice_over(group, *update.finish);  // first: who hears of the end may look at the counts
  tell(*group, update);
}

void Scheduler::choice_over(const std::shared_ptr<Group>& group, Finish reason) {
  if (--group->left > 0) return;
  std::lock_guard lock(mutex_);
  ++(reason == Finish::kCancelled ? counts_.cancelled : counts_.finished);
  groups_.erase(group->id);
  if (groups_.empty()) idle_.notify_all();
}

void Scheduler::end_running(Slot& slot, Finish reason, const std::string& message) {
  const auto group = slot.group;
  const bool alone = group->forked || slot.choice->index() > 0;
  slot.choice->end(reason, slot.update);
  slot.update.message = message;
  deliver(slot);
  if (!alone) end_waiting(group, 1, reason, message);
}

// Choices `first` and up of a request whose prompt was not read; or, of one that was, that one choice. -1: all.
void Scheduler::end_waiting(const std::shared_ptr<Group>& group, int first_choice, Finish reason, const std::string& message) {
  const int first = std::max(first_choice, 0), last = group->forked ? first + 1 : group->request.choices;
  for (int i = first; i < last; ++i) {
    GenerationUpdate update;
    update.choice = i;
    update.finish = reason;
    update.message = message;
    update.stats.prompt_tokens = int64_t(group->request.prompt.size());
    choice_over(group, reason);
    tell(*group, update);
  }
}

void Scheduler::fail_everything(const std::string& message) {
  std::vector<Slot*> busy;
  for (const auto& slot : slots_) {
    if (slot->group) busy.push_back(slot.get());
  }
  for (Slot* slot : busy) {
    slot->update = {};
    slot->update.choice = slot->choice->index();
    end_running(*slot, Finish::kFailed, message);
  }
}

}  // namespace retort::serve
