#include "io/utf8.h"

#include <gtest/gtest.h>

namespace retort {
namespace {

TEST(Utf8, FindsTheFirstInvalidByte) {
  EXPECT_EQ(utf8::first_invalid("plain ASCII, longer than eight bytes"), utf8::kValid);
  EXPECT_EQ(utf8::first_invalid("é日👍"), utf8::kValid);
  EXPECT_EQ(utf8::first_invalid("12345678ab\xff"), 10u);
  EXPECT_EQ(utf8::first_invalid("a\xc3"), 1u);
  EXPECT_EQ(utf8::first_invalid("\xc0\x80"), 0u) << "overlong";
  EXPECT_EQ(utf8::first_invalid("\xed\xa0\x80"), 0u) << "surrogate";
  EXPECT_EQ(utf8::first_invalid("\xf4\x90\x80\x80"), 0u) << "past U+10FFFF";
  EXPECT_EQ(utf8::first_invalid("\x80"), 0u);
}

TEST(Utf8, RepairsOneReplacementPerIllFormedPart) {
  EXPECT_EQ(utf8::repair("a\xf0\x9f\x91z"), "a\xef\xbf\xbdz");
  EXPECT_EQ(utf8::repair("\xff\xfe"), "\xef\xbf\xbd\xef\xbf\xbd");
  EXPECT_EQ(utf8::repair("\xed\xa0\x80"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd");
}

TEST(TextStream, NeverEmitsHalfACharacter) {
  const std::string text = "aé日👍‍z";
  TextStream stream;
  std::string got;
  for (char byte : text) {
    const std::string piece = stream.push({&byte, 1});
    EXPECT_TRUE(utf8::is_valid(piece)) << got.size();
    got += piece;
  }
  EXPECT_EQ(got + stream.finish(), text);
}

TEST(TextStream, RepairsWhatNeverBecomesACharacter) {
  TextStream stream;
  EXPECT_EQ(stream.push("a\xe6\x97"), "a");
  EXPECT_EQ(stream.push("b"), "\xef\xbf\xbd" "b");
  EXPECT_EQ(stream.push("\xe6"), "");
  EXPECT_EQ(stream.finish(), "\xef\xbf\xbd");
}

TEST(TextStream, HoldsBackWhatMayBecomeAStop) {
  TextStream stream({"</s>", "STOP"});
  EXPECT_EQ(stream.push("one <"), "one ");
  EXPECT_EQ(stream.push("/s"), "");
  EXPECT_EQ(stream.push("x"), "</sx");
  EXPECT_EQ(stream.push("ab ST"), "ab ");
  EXPECT_FALSE(stream.stopped());
  EXPECT_EQ(stream.push("OP more"), "");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.push("nothing"), "");
  EXPECT_EQ(stream.finish(), "");
}

TEST(TextStream, CutsAtTheEarliestStop) {
  TextStream stream({"b", "abc"});
  EXPECT_EQ(stream.push("xxabc"), "xx");
}

TEST(TextStream, GivesHeldTextAtTheEnd) {
  TextStream stream({"STOP"});
  EXPECT_EQ(stream.push("a STO"), "a ");
  EXPECT_EQ(stream.finish(), "STO");
}

}  // namespace
}  // namespace retort
