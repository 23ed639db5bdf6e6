// One conversation with a model: its tokens, its state, and the logits for what comes next.
//
// Layer: runtime. Not thread-safe; many sessions may share an Engine in turn.
//
// Tokens are committed at once and consumed by the model in chunks; at most the newest one is pending (committed, not yet
// consumed), which is where a saved state continues.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "runtime/model.h"
#include "runtime/state_file.h"

namespace retort {

class Session {
 public:
  static constexpr int64_t kPrefillRows = 256;

  explicit Session(Engine& engine) : engine_(&engine), sequence_(engine.model().new_sequence()) {}

  const std::vector<int>& tokens() const { return tokens_; }
  const Sequence& sequence() const { return sequence_; }
  // Tokens that are not consumed yet: 0 or more.
  int64_t pending() const { return int64_t(tokens_.size()) - sequence_.position(); }

  // Commits without computing.
  void commit(std::span<const int> tokens) { tokens_.insert(tokens_.end(), tokens.begin(), tokens.end()); }
  void commit(int token) { tokens_.push_back(token); }
  // Consumes everything pending; logits() are those after the last token. `progress` is told tokens done; returning false
  // stops between chunks (kInterrupted), and consuming may be resumed.
  Status consume(const std::function<bool(int64_t done)>& progress = {}, int64_t chunk = kPrefillRows);
  std::span<const float> logits() const { return logits_; }
  // The engine that further passes run on, of the same model.
  void use(Engine& engine) { engine_ = &engine; }

  // With at most one token pending: runs it and `guesses` after it on trial; logits [pending + guesses, vocabulary].
  Status consume_on_trial(std::span<const int> guesses, Trial& trial, std::vector<float>& logits);
  // As many rows of the pass are kept as there are `tokens`. They follow the pending token: some of the guesses, then one that stays
  // pending. With none pending: guesses only. `logits`: those after the last kept row, if somebody wants them of logits().
  void keep(Trial& trial, std::span<const int> tokens, std::span<const float> logits = {});

  Session clone() const { return *this; }
  void reset();
  // Back to where `position` tokens were consumed, if the state can (Sequence::cut); the tokens after it go.
  bool cut(int64_t position);
  // Another text, whose state is known: `state` has consumed `tokens`.
  void assume(std::span<const int> tokens, Sequence state);

  // A file has the tokens and the state, bound to the model, and with nothing pending the logits. Unconsumed tokens stay unconsumed.
  Status save(const std::string& path) const;
  // What it held is lost only when loading succeeds. A file of another model, another version, cut or damaged: one error.
  Status load(const std::string& path);
  // The same in memory: saved_bytes() of them.
  int64_t saved_bytes() const;
  Status save(const StateSink& sink) const;
  Status load(std::span<const std::byte> bytes, const std::string& name);

 private:
  std::span<const float> known_logits() const { return pending() == 0 ? logits() : std::span<const float>(); }
  Status take(SavedState state, const std::string& name);

  Engine* engine_;
  Sequence sequence_;
  std::vector<int> tokens_;
  std::vector<float> logits_;
};

}  // namespace retort
