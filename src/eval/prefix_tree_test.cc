#include "eval/prefix_tree.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/random.h"

namespace retort {
namespace {

// A sequence, put together from the nodes on its way.
std::vector<int> path(const PrefixTree& tree, size_t sequence) {
  std::vector<int> out;
  for (int n = tree.last_node(sequence); n > 0; n = tree.nodes()[size_t(n)].parent) {
    const auto& tokens = tree.nodes()[size_t(n)].tokens;
    out.insert(out.begin(), tokens.begin(), tokens.end());
  }
  return out;
}

TEST(PrefixTree, SharedBeginningsAreOneNode) {
  const std::vector<std::vector<int>> sequences = {{1, 2, 3, 4}, {1, 2, 3, 5}, {1, 2}, {7}, {1, 2, 3, 4}};
  const PrefixTree tree(sequences);
  for (size_t s = 0; s < sequences.size(); ++s) EXPECT_EQ(path(tree, s), sequences[s]) << s;
  EXPECT_EQ(tree.nodes().size(), 6u);  // the root, [1 2], [3], [4], [5], [7]
  EXPECT_EQ(tree.last_node(0), tree.last_node(4));
  EXPECT_EQ(tree.nodes()[size_t(tree.last_node(2))].children.size(), 1u);
}

TEST(PrefixTree, RandomSequencesComeBackAndChildrenDiffer) {
  Random random(5);
  std::vector<std::vector<int>> sequences(300);
  for (auto& sequence : sequences) {
    sequence.resize(1 + size_t(random.uniform() * 12));
    for (int& token : sequence) token = int(random.uniform() * 3);
  }
  const PrefixTree tree(sequences);
  for (size_t s = 0; s < sequences.size(); ++s) ASSERT_EQ(path(tree, s), sequences[s]) << s;
  for (const auto& node : tree.nodes()) {
    std::vector<int> first;
    for (const int child : node.children) first.push_back(tree.nodes()[size_t(child)].tokens.front());
    std::sort(first.begin(), first.end());
    EXPECT_EQ(std::adjacent_find(first.begin(), first.end()), first.end());
    EXPECT_EQ(node.end - node.begin, int64_t(node.tokens.size()));
  }
}

TEST(PrefixTree, ALongChainOfPrefixes) {
  std::vector<std::vector<int>> sequences;
  for (size_t n = 1; n <= 2000; ++n) sequences.emplace_back(n, 1);
  const PrefixTree tree(sequences);
  EXPECT_EQ(tree.nodes().size(), 2001u);
}

}  // namespace
}  // namespace retort
