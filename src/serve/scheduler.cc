#include "serve/scheduler.h"

#include <algorithm>
#include <limits>
#include <new>

#include "serve/scheduler_slot.h"

namespace retort::serve {

Scheduler::Scheduler(std::shared_ptr<const Model> model, ThreadPool& pool, EngineOptions engine, Tokenizer tokenizer, SchedulerOptions options)
    : options_(std::move(options)), tokenizer_(std::move(tokenizer)), never_(tokenizer_.ids_without_token(model->config().vocab_size)), model_(*model), engine_(std::move(model), pool, engine),
      cache_(options_.cache_bytes, options_.prefill_rows, tokenizer_) {
  for (int i = 0; i < options_.parallel; ++i) {
    slots_.push_back(std::make_unique<Slot>());
    slots_.back()->id = i;
    infos_.push_back({i, false, 0, 0});
  }
  warn_of_cache();
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
  for (const auto& [token, bias] : request.sampling.logit_bias) {
    if (token >= vocabulary) return invalid("'logit_bias' names token ", token, "; the vocabulary has ", vocabulary);
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
  ++last_client_;
  for (Job& job : jobs) {
    auto group = std::make_shared<Group>();
    group->id = ++last_id_;
    group->client = last_client_;
    group->left = job.request.choices;
    group->request = std::move(job.request);
    group->request.sampling.never = never_;
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

// The next choice to run, under mutex_. Who has the fewest choices running comes first, so that one request of many prompts or choices does
// not keep the others out; of equals choices of prompts already read, then the order of arrival. One that waits for its own slot holds
// up nobody.
bool Scheduler::take_next(std::shared_ptr<Group>& group, int& choice, Slot*& slot) {
  std::unordered_map<uint64_t, int> running;  // by client
  for (const auto& busy : slots_) {
    if (busy->group) ++running[busy->group->client];
  }
  Slot* const any = free_slot(-1);
  if (!any) return false;
  int fewest = std::numeric_limits<int>::max();
  auto fork = forks_.end();
  auto next = queue_.end();
  for (auto it = forks_.begin(); it != forks_.end(); ++it) {
    if (const int n = running[it->first->client]; n < fewest) fewest = n, fork = it;
  }
  for (auto it = queue_.begin(); it != queue_.end() && fewest > 0; ++it) {
    if (const int n = running[(*it)->client]; n < fewest && free_slot((*it)->request.slot)) fewest = n, next = it;
  }
  if (next != queue_.end()) {
    group = *next, choice = 0, slot = free_slot(group->request.slot);
    queue_.erase(next);
    counts_.waiting = int(queue_.size());
  } else if (fork != forks_.end()) {
    std::tie(group, choice) = *fork, slot = any;
    forks_.erase(fork);
  } else {
    return false;
  }
  slot->busy = true;
  slot->ends = false;
  ++counts_.running;
  return true;
}

void Scheduler::admit() {
  for (;;) {
    std::shared_ptr<Group> group;
    int choice = 0;
    Slot* slot = nullptr;
    {
      std::lock_guard lock(mutex_);
      if (!take_next(group, choice, slot)) return;
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
  slot.trust = options_.most_guesses;
  if (choice == 0) return start_reading(slot);
  slot.kept.clear();
  slot.sequence = slot.group->prompt_state;
  slot.stats = slot.group->prompt_stats;
  slot.choice->draw(slot.group->prompt_logits, slot.update);
  deliver(slot);
}

// A kept state is continued where the request says so and its tokens begin the prompt. One token at least has to be computed.
void Scheduler::start_reading(Slot& slot) {
  const GenerationRequest& request = slot.group->request;
  const bool continues = request.slot >= 0 && slot.group->uses_cache() && slot.sequence &&
                         slot.sequence->position() < int64_t(request.prompt.size()) &&
                         std::equal(slot.kept.begin(), slot.kept.begin() + slot.sequence->position(), request.prompt.begin());
  slot.kept.clear();
  if (!continues) slot.sequence.emplace(model_.new_sequence());
  slot.exact = !continues;
  slot.cached = 0;
  slot.looked = -1;
  slot.stats.prompt_tokens = int64_t(request.prompt.size());
  slot.stats.cached_tokens = slot.sequence->position();
  if (!slot.group->uses_cache()) return;
  std::lock_guard lock(mutex_);
  counts_.looked_up_tokens += slot.stats.prompt_tokens;
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
    slot.draft.reset();
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
    slot->trial = {};  // of the pass that failed
    slot->update = {};
    slot->update.choice = slot->choice->index();
    end_running(*slot, Finish::kFailed, message);
  }
}

}  // namespace retort::serve
