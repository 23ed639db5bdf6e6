#include "base/suggest.h"

#include <gtest/gtest.h>

namespace retort {

TEST(Suggest, FindsTypingSlips) {
  const std::vector<std::string> known = {"inspect", "generate", "perplexity"};
  EXPECT_EQ(nearest_name("inspct", known), "inspect");
  EXPECT_EQ(nearest_name("gen", known), "generate");
  EXPECT_EQ(nearest_name("perplexitiy", known), "perplexity");
}

TEST(Suggest, SaysNothingRatherThanNonsense) {
  EXPECT_EQ(nearest_name("zzzz", {"inspect", "generate"}), "");
  EXPECT_EQ(nearest_name("", {}), "");
  EXPECT_EQ(suggestion("zzzz", {"inspect", "chat"}), "; known: inspect, chat");
  EXPECT_EQ(suggestion("chatt", {"inspect", "chat"}), "; did you mean 'chat'?");
}

TEST(Suggest, LongInputIsCut) { EXPECT_EQ(nearest_name(std::string(1 << 20, 'x'), {"inspect"}), ""); }

}  // namespace retort
