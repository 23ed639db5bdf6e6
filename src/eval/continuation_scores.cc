#include "eval/continuation_scores.h"

#include <algorithm>
#include <memory>
#include <queue>

#include "base/interrupt.h"
#include "eval/perplexity.h"
#include "eval/prefix_tree.h"

namespace retort {
namespace {

// An id to score against the logits of one row of a node.
struct Target {
  int64_t row;        // depth in tokens: the row that reads the token before the id
  int id;
  size_t continuation;
  double log_probability = 0;
  bool greedy = false;
};

// A node on its way through the model.
struct Visit {
  std::unique_ptr<Sequence> state;
  std::vector<Target> targets;  // by row
  size_t children_left = 0;     // not started yet
  int64_t done = 0;             // tokens read
  int depth = 0;                // nodes above
};

class TreeWalk {
 public:
  TreeWalk(Engine& engine, const ContinuationOptions& options, std::span<const Continuation> continuations)
      : engine_(engine), options_(options), continuations_(continuations), inputs_(inputs_of(continuations)), tree_(inputs_),
        visits_(tree_.nodes().size()), targets_left_(continuations.size()) {
    for (size_t n = 1; n < visits_.size(); ++n) visits_[n].depth = visits_[size_t(node(n).parent)].depth + 1;
    for (size_t n = 0; n < visits_.size(); ++n) visits_[n].children_left = node(n).children.size();
    for (size_t c = 0; c < continuations.size(); ++c) place_targets(c);
    for (auto& visit : visits_) std::sort(visit.targets.begin(), visit.targets.end(), by_row);
  }

  Result<std::vector<ContinuationScore>> run(ContinuationWork& work, const ContinuationProgress& progress) {
    for (const auto& input : inputs_) work.rows_asked += int64_t(input.size());
    visits_[0].state = std::make_unique<Sequence>(engine_.model().new_sequence());
    finish(0);
    while (!ready_.empty() || !begun_.empty()) {
      RETORT_RETURN_IF_ERROR(pass(work));
      if (progress) progress(continuations_done_);
      if (interrupted()) return interrupted_error();
    }
    return scores();
  }

 private:
  struct Piece {
    size_t node;
    int64_t count;
    WantLogits logits;
  };
  struct WantedRow {
    size_t node;
    int64_t row;
  };

  // All ids but the last, which nobody comes after.
  static std::vector<std::vector<int>> inputs_of(std::span<const Continuation> continuations) {
    std::vector<std::vector<int>> out;
    for (const Continuation& c : continuations) {
      auto& input = out.emplace_back(c.context);
      input.insert(input.end(), c.ids.begin(), c.ids.end() - 1);
    }
    return out;
  }
  static bool by_row(const Target& a, const Target& b) { return a.row < b.row; }
  const PrefixTree::Node& node(size_t n) const { return tree_.nodes()[n]; }

  void place_targets(size_t c) {
    const int64_t first = int64_t(continuations_[c].context.size()) - 1;
    int64_t row = int64_t(inputs_[c].size()) - 1;
    targets_left_[c] = row - first + 1;
    for (int n = tree_.last_node(c); row >= first; n = node(size_t(n)).parent) {
      for (; row >= first && row >= node(size_t(n)).begin; --row) {
        visits_[size_t(n)].targets.push_back({row, continuations_[c].ids[size_t(row - first)], c});
      }
    }
  }

  // A node was read to its end: its children may start, or nobody needs its state.
  void finish(size_t n) {
    for (const int child : node(n).children) ready_.push({visits_[size_t(child)].depth, -child});
    if (node(n).children.empty()) spare_.push_back(std::move(visits_[n].state));
  }

  // The last child takes its parent's state, the others copy it.
  bool needs_copy(size_t n) const { return visits_[size_t(node(n).parent)].children_left > 1; }
  void start(size_t n) {
    Visit& parent = visits_[size_t(node(n).parent)];
    if (parent.children_left-- == 1) {
      visits_[n].state = std::move(parent.state);
      return;
    }
    if (spare_.empty()) {
      visits_[n].state = std::make_unique<Sequence>(*parent.state);
      return;
    }
    visits_[n].state = std::move(spare_.back());
    spare_.pop_back();
    *visits_[n].state = *parent.state;
  }

  int64_t live_bytes() const {
    int64_t total = 0;
    for (const Visit& visit : visits_) total += visit.state ? visit.state->bytes() : 0;
    return total;
  }

  // As much of a node as fits: rows before the first one with targets need no logits, so a piece ends there.
  Piece next_piece(size_t n, int64_t room) const {
    const Visit& visit = visits_[n];
    const int64_t length = node(n).end - node(n).begin, end = std::min(length, visit.done + room);
    const int64_t scored = visit.targets.empty() ? length : visit.targets.front().row - node(n).begin;
    if (visit.done > scored) return {n, end - visit.done, WantLogits::kAll};
    const int64_t stop = std::min(end, scored + 1);
    return {n, stop - visit.done, stop == scored + 1 ? WantLogits::kLast : WantLogits::kNone};
  }

  std::vector<Piece> choose() {
    std::vector<Piece> pieces;
    int64_t room = options_.pass_rows;
    const auto add = [&](size_t n) {
      pieces.push_back(next_piece(n, room));
      room -= pieces.back().count;
    };
    for (const size_t n : begun_) {
      if (room > 0) add(n);
    }
    int64_t bytes = live_bytes();
    while (room > 0 && !ready_.empty()) {
      const size_t n = size_t(-ready_.top().second);
      if (needs_copy(n)) {
        if (bytes > options_.state_bytes && !pieces.empty()) break;
        bytes += visits_[size_t(node(n).parent)].state->bytes();
      }
      ready_.pop();
      start(n);
      begun_.push_back(n);
      add(n);
    }
    return pieces;
  }

  Status pass(ContinuationWork& work) {
    const std::vector<Piece> pieces = choose();
    std::vector<BatchItem> items;
    wanted_.clear();
    for (const Piece& piece : pieces) {
      Visit& visit = visits_[piece.node];
      items.push_back({visit.state.get(), node(piece.node).tokens.subspan(size_t(visit.done), size_t(piece.count)), piece.logits});
      const int64_t first = node(piece.node).begin + visit.done, last = first + piece.count - 1;
      if (piece.logits == WantLogits::kLast) wanted_.push_back({piece.node, last});
      for (int64_t row = first; piece.logits == WantLogits::kAll && row <= last; ++row) wanted_.push_back({piece.node, row});
      work.rows_read += piece.count;
    }
    RETORT_RETURN_IF_ERROR(engine_.forward(items, [&](const LogitsRows& rows) { score(rows); }));
    for (const Piece& piece : pieces) {
      visits_[piece.node].done += piece.count;
      if (visits_[piece.node].done == node(piece.node).end - node(piece.node).begin) finish(piece.node);
    }
    std::erase_if(begun_, [&](size_t n) { return visits_[n].done == node(n).end - node(n).begin; });
    return {};
  }

  std::span<Target> targets_of(const WantedRow& wanted) {
    auto& targets = visits_[wanted.node].targets;
    const auto [first, end] = std::equal_range(targets.begin(), targets.end(), Target{wanted.row, 0, 0}, by_row);
    return {first, end};
  }

  void score(const LogitsRows& rows) {
    const size_t vocabulary = size_t(engine_.model().config().vocab_size);
    engine_.pool().parallel_for(rows.count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const auto targets = targets_of(wanted_[size_t(rows.first + r)]);
        if (targets.empty()) continue;
        const std::span<const float> logits(rows.data + size_t(r) * vocabulary, vocabulary);
        const LogNormalizer normalizer = log_normalizer(logits);
        for (Target& target : targets) {
          const float value = logits[size_t(target.id)];
          target.log_probability = double(value) - normalizer.value;
          const auto before = logits.begin() + target.id;
          target.greedy = value == normalizer.largest && std::find(logits.begin(), before, value) == before;
        }
      }
    });
    for (int64_t r = 0; r < rows.count; ++r) {
      for (const Target& target : targets_of(wanted_[size_t(rows.first + r)])) {
        continuations_done_ += --targets_left_[target.continuation] == 0;
      }
    }
  }

  // Summed in the order of the ids, whatever order they were computed in.
  std::vector<ContinuationScore> scores() const {
    std::vector<ContinuationScore> out(continuations_.size());
    for (const Visit& visit : visits_) {  // parents come first
      for (const Target& target : visit.targets) {
        out[target.continuation].log_likelihood += target.log_probability;
        out[target.continuation].greedy &= target.greedy;
        out[target.continuation].greedy_ids += target.greedy;
      }
    }
    return out;
  }

  Engine& engine_;
  const ContinuationOptions& options_;
  std::span<const Continuation> continuations_;
  const std::vector<std::vector<int>> inputs_;
  const PrefixTree tree_;
  std::vector<Visit> visits_;
  std::vector<int64_t> targets_left_;
  int64_t continuations_done_ = 0;
  std::priority_queue<std::pair<int, int>> ready_;  // depth, then the order of the tree
  std::vector<size_t> begun_;
  std::vector<WantedRow> wanted_;
  std::vector<std::unique_ptr<Sequence>> spare_;
};

}  // namespace

Result<std::vector<ContinuationScore>> score_continuations(Engine& engine, std::span<const Continuation> continuations,
                                                           const ContinuationOptions& options, ContinuationWork& work,
                                                           const ContinuationProgress& progress) {
  const int64_t vocabulary = engine.model().config().vocab_size;
  for (const Continuation& c : continuations) {
    if (c.context.empty() || c.ids.empty()) return invalid("a continuation without ids, or without a context");
    for (const int id : c.ids) {
      if (id < 0 || id >= vocabulary) return invalid("token ", id, " is outside the vocabulary of ", vocabulary);
    }
  }
  return TreeWalk(engine, options, continuations).run(work, progress);
}

}  // namespace retort
