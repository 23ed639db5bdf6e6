#include "runtime/session.h"

namespace retort {

Status Session::consume(const std::function<bool(int64_t)>& progress, int64_t chunk) {
  const int64_t total = pending();
  while (pending() > 0) {
    const int64_t count = std::min(pending(), chunk);
    const BatchItem item{&sequence_, std::span(tokens_).subspan(size_t(sequence_.position()), size_t(count)),
                         count == pending() ? WantLogits::kLast : WantLogits::kNone};
    RETORT_RETURN_IF_ERROR(engine_->forward({&item, 1}, [&](const LogitsRows& rows) {
      logits_.assign(rows.data, rows.data + engine_->model().config().vocab_size);
    }));
    if (progress && pending() > 0 && !progress(total - pending())) return Error{ErrorCode::kInterrupted, "interrupted"};
  }
  return {};
}

Status Session::consume_on_trial(std::span<const int> guesses, Trial& trial, std::vector<float>& logits) {
  RETORT_CHECK(pending() <= 1, "guesses follow at most one pending token, not ", pending());
  std::vector<int> rows(tokens_.end() - pending(), tokens_.end());
  rows.insert(rows.end(), guesses.begin(), guesses.end());
  const BatchItem item{&sequence_, rows, WantLogits::kAll, &trial};
  logits.clear();
  return engine_->forward({&item, 1}, [&](const LogitsRows& out) {
    logits.insert(logits.end(), out.data, out.data + out.count * engine_->model().config().vocab_size);
  });
}

void Session::keep(Trial& trial, std::span<const int> tokens, std::span<const float> logits) {
  trial.keep(sequence_, int64_t(tokens.size()), engine_->pool());
  commit(tokens);
  logits_.assign(logits.begin(), logits.end());
}

bool Session::cut(int64_t position) {
  if (!sequence_.cut(position)) return false;
  tokens_.resize(size_t(position));
  logits_.clear();
  return true;
}

void Session::assume(std::span<const int> tokens, Sequence state) {
  RETORT_CHECK(state.position() == int64_t(tokens.size()), "a state of ", state.position(), " tokens for ", tokens.size());
  tokens_.assign(tokens.begin(), tokens.end());
  sequence_ = std::move(state);
  logits_.clear();
}

void Session::reset() {
  sequence_.reset();
  tokens_.clear();
  logits_.clear();
}

Status Session::save(const std::string& path) const {
  return write_state_file(path, engine_->model().identity(), tokens_, sequence_, known_logits());
}

int64_t Session::saved_bytes() const { return state_bytes(engine_->model().identity(), tokens_, sequence_, known_logits()); }

Status Session::save(const StateSink& sink) const {
  return write_state(sink, engine_->model().identity(), tokens_, sequence_, known_logits());
}

Status Session::load(const std::string& path) {
  RETORT_TRY(SavedState state, read_state_file(path, engine_->model().identity(), engine_->model().layout()));
  return take(std::move(state), path);
}

Status Session::load(std::span<const std::byte> bytes, const std::string& name) {
  RETORT_TRY(SavedState state, read_state(bytes, name, engine_->model().identity(), engine_->model().layout()));
  return take(std::move(state), name);
}

Status Session::take(SavedState state, const std::string& name) {
  const int vocabulary = engine_->model().config().vocab_size;
  for (const int token : state.tokens) {
    if (token < 0 || token >= vocabulary) return invalid(name, ": token ", token, " is outside the vocabulary of ", vocabulary);
  }
  if (!state.logits.empty() && int64_t(state.logits.size()) != vocabulary) {
    return invalid(name, ": ", state.logits.size(), " logits, the vocabulary has ", vocabulary);
  }
  tokens_ = std::move(state.tokens);
  sequence_ = std::move(state.sequence);
  logits_ = std::move(state.logits);
  return {};
}

}  // namespace retort
