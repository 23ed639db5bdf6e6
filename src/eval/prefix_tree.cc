#include "eval/prefix_tree.h"

#include <algorithm>
#include <numeric>

namespace retort {

PrefixTree::PrefixTree(const std::vector<std::vector<int>>& sequences) : nodes_(1), last_(sequences.size(), 0) {
  std::vector<size_t> order(sequences.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return sequences[a] < sequences[b]; });
  // Sorted, the sequences below a node are a range, and its first and last one share what all of them share.
  struct Range {
    size_t first, end;
    int parent;
  };
  std::vector<Range> work = {{0, order.size(), 0}};
  while (!work.empty()) {
    Range range = work.back();
    work.pop_back();
    const int64_t depth = nodes_[size_t(range.parent)].end;
    while (range.first < range.end && int64_t(sequences[order[range.first]].size()) == depth) last_[order[range.first++]] = range.parent;
    if (range.first == range.end) continue;
    // Those that go on with the same token are one child; the rest is looked at later.
    const auto& front = sequences[order[range.first]];
    size_t next = range.first + 1;
    while (next < range.end && sequences[order[next]][size_t(depth)] == front[size_t(depth)]) ++next;
    if (next < range.end) work.push_back({next, range.end, range.parent});
    const auto& back = sequences[order[next - 1]];
    const auto same = std::mismatch(front.begin() + depth, front.end(), back.begin() + depth, back.end()).first;
    const int64_t end = same - front.begin();
    const int node = int(nodes_.size());
    nodes_.push_back({range.parent, depth, end, std::span(front).subspan(size_t(depth), size_t(end - depth)), {}});
    nodes_[size_t(range.parent)].children.push_back(node);
    work.push_back({range.first, next, node});
  }
}

}  // namespace retort
