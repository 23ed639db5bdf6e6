// States by the tokens that led to them: a prompt that begins like an earlier one is fed only from where it goes its own way.
//
// Layer: runtime. Not thread-safe. All states are of one model.
//
// A tree whose edges are runs of tokens and whose nodes may hold a copy of a state. A recurrent state cannot be shortened, so it
// is found only where it was put: at the ends of messages and every few tokens. Where full attention is all that remembers, a
// state is also found, cut, where a text leaves the one that was stored. Copies of one text share the chunks of their caches.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "runtime/session.h"

namespace retort {

class PrefixCache {
 public:
  struct Stats {
    int64_t states = 0, bytes = 0;  // now; chunks that states share count once
    int64_t lookups = 0, hits = 0, evicted = 0;
    int64_t refused = 0;            // states larger than the budget
  };

  // The states that were not needed for the longest time go first.
  explicit PrefixCache(int64_t byte_budget) : budget_(byte_budget) {}

  // Where a state that can be cut may be cut to: the longest length that will do, up to the one given.
  using CutTo = std::function<int64_t(int64_t length)>;
  // The state after the longest known beginning of `tokens` if it is longer than `longer_than`, and shorter than the whole: something
  // must be fed to have logits. Its position() says how long.
  std::optional<Sequence> find(std::span<const int> tokens, int64_t longer_than = 0, const CutTo& cut_to = {});
  // `state` has consumed `tokens`. False: it is larger than the budget, and nothing changes.
  bool put(std::span<const int> tokens, const Sequence& state);
  const Stats& stats() const { return stats_; }

 private:
  struct Node {
    std::vector<int> edge;  // from the parent
    Node* parent = nullptr;
    std::map<int, std::unique_ptr<Node>> children;  // by their edge's first token
    std::optional<Sequence> state;
    std::list<Node*>::iterator used;
  };
  // How far a text goes down the tree: `length` tokens, to `node`; of its edge `inside` tokens (all of them: to the node itself).
  struct Place {
    Node* node;
    size_t inside;
    int64_t length;
  };
  Place walk(std::span<const int> tokens, Node** deepest_state);
  Node* split(Node* node, size_t inside);
  Node* add(Node* parent, std::span<const int> edge);
  void count_bytes(const Sequence& state, int change);
  void evict(Node* node);

  int64_t budget_;
  Stats stats_;
  Node root_;
  std::list<Node*> used_;  // latest first
  std::unordered_map<const void*, int64_t> chunks_;  // how many states have it
};

// How much of a text was known, and how much was fed.
struct Fed {
  int64_t cached = 0, fed = 0;
};

// Makes `tokens` the session's text, all consumed: from where the session stands if the text goes on from there, else from the
// cache. States are put every `every` tokens and at the end. `progress` is told tokens fed; false stops (kInterrupted).
Result<Fed> feed_with_cache(Session& session, PrefixCache& cache, std::span<const int> tokens, int64_t every = 512,
                            const std::function<bool(int64_t fed)>& progress = {});

}  // namespace retort
