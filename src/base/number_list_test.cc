#include "base/number_list.h"

#include <gtest/gtest.h>

namespace retort {
namespace {

TEST(NumberList, KeepsTheOrder) {
  EXPECT_EQ(parse_number_list("0-3,7"), (std::vector<int>{0, 1, 2, 3, 7}));
  EXPECT_EQ(parse_number_list(" 9, 2 - 3 "), (std::vector<int>{9, 2, 3}));
  EXPECT_EQ(parse_number_list("5,5"), (std::vector<int>{5, 5}));
  for (const char* text : {"", ",", "1,,2", "3-1", "-1", "1-", "a", "1.5", "100000", "1-2-3"}) EXPECT_FALSE(parse_number_list(text)) << text;
}

}  // namespace
}  // namespace retort
