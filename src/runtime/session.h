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

  Session clone() const { return *this; }
  void reset();

  // A file has the tokens and the state, bound to the model. Unconsumed tokens stay unconsumed.
  Status save(const std::string& path) const;
  // What it held is lost only when loading succeeds. A file of another model, another version, cut or damaged: one error.
  Status load(const std::string& path);

 private:
  Engine* engine_;
  Sequence sequence_;
  std::vector<int> tokens_;
  std::vector<float> logits_;
};

}  // namespace retort
