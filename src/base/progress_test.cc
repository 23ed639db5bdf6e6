#include "base/progress.h"

#include <algorithm>
#include <string>

#include <gtest/gtest.h>

namespace retort {
namespace {

std::string contents(std::FILE* file) {
  std::string text;
  std::rewind(file);
  for (int c; (c = std::fgetc(file)) != EOF;) text += char(c);
  return text;
}

}  // namespace

TEST(Progress, PlainLinesAreRareAndHaveNoControlCharacters) {
  std::FILE* file = std::tmpfile();
  {
    Progress progress("align", 1000, {file, false, 1e9});
    for (int step = 1; step <= 1000; ++step) progress.update(step, "loss 1.0");
    progress.finish("done");
  }
  const auto text = contents(file);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 2) << text;
  EXPECT_EQ(text.find('\r'), std::string::npos);
  EXPECT_EQ(text.find('\033'), std::string::npos);
  EXPECT_NE(text.find("align  1/1,000"), std::string::npos) << text;
  std::fclose(file);
}

TEST(Progress, TerminalEndsOnAFreshLineEvenWhenAbandoned) {
  std::FILE* file = std::tmpfile();
  {
    Progress progress("align", 10, {file, true, 10});
    progress.update(3);
  }
  const auto text = contents(file);
  EXPECT_NE(text.find("[#######"), std::string::npos) << text;
  EXPECT_EQ(text.back(), '\n');
  std::fclose(file);
}

}  // namespace retort
