#include "base/format.h"

#include <cmath>

#include <gtest/gtest.h>

namespace retort {

TEST(Format, Counts) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(1000), "1,000");
  EXPECT_EQ(format_count(-1234567), "-1,234,567");
  EXPECT_EQ(format_count(-123), "-123");
}

TEST(Format, Bytes) {
  EXPECT_EQ(format_bytes(0), "0 B");
  EXPECT_EQ(format_bytes(999), "999 B");
  EXPECT_EQ(format_bytes(92871040), "92.9 MB");
  EXPECT_EQ(format_bytes(1e9), "1.00 GB");
  EXPECT_EQ(format_bytes(NAN), "-");
}

TEST(Format, Durations) {
  EXPECT_EQ(format_duration(8.06), "8.1 s");
  EXPECT_EQ(format_duration(59.96), "1 min 00 s");
  EXPECT_EQ(format_duration(184), "3 min 04 s");
  EXPECT_EQ(format_duration(3725), "1 h 02 min");
  EXPECT_EQ(format_duration(INFINITY), "-");
}

TEST(Format, Significant) {
  EXPECT_EQ(format_significant(218.4, 3), "218");
  EXPECT_EQ(format_significant(1.2345, 3), "1.23");
  EXPECT_EQ(format_significant(0.0042, 2), "0.0042");
  EXPECT_EQ(format_significant(0, 2), "0");
}

}  // namespace retort
