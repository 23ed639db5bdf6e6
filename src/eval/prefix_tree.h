// What many token sequences share, so that a model reads it once: a radix tree whose edges are runs of tokens.
//
// Layer: eval. Belongs to one thread; keeps views of the sequences, which must outlive it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace retort {

class PrefixTree {
 public:
  // Tokens [begin, end) of every sequence that passes through. Parents come before children; node 0 is the empty root.
  struct Node {
    int parent = -1;
    int64_t begin = 0, end = 0;
    std::span<const int> tokens;  // end - begin of them
    std::vector<int> children;
  };

  explicit PrefixTree(const std::vector<std::vector<int>>& sequences);

  const std::vector<Node>& nodes() const { return nodes_; }
  // The node in which a sequence ends; its ancestors hold the rest.
  int last_node(size_t sequence) const { return last_[sequence]; }

 private:
  std::vector<Node> nodes_;
  std::vector<int> last_;
};

}  // namespace retort
