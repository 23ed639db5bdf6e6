#include "eval/tasks/python_text.h"

#include <gtest/gtest.h>

#include "eval/tasks/wikitext_text.h"

namespace retort::harness {
namespace {

TEST(PythonText, SpacesAreThoseOfPython) {
  EXPECT_EQ(strip(" \t\x1c\xc2\xa0 a b\xe3\x80\x80\n"), "a b");
  EXPECT_EQ(strip(" \n"), "");
  EXPECT_EQ(trailing_space_bytes("a\xc2\xa0 "), 3u);
  EXPECT_EQ(trailing_space_bytes("\xe2\x80\x8b"), 0u);  // a zero-width space is none
}

TEST(PythonText, CapitalizeLowersTheRest) {
  EXPECT_EQ(capitalize(""), "");
  EXPECT_EQ(capitalize("the NASA launch"), "The nasa launch");
  EXPECT_EQ(capitalize("\xc3\xa9T\xc3\x89"), "\xc3\x89t\xc3\xa9");
}

TEST(PythonText, ReplaceGoesOnceFromTheLeft) {
  EXPECT_EQ(replace_all("a    b", "  ", " "), "a  b");
  EXPECT_EQ(replace_all("", "x", "y"), "");
}

TEST(PythonText, WordsCountEmptyEnds) {
  EXPECT_EQ(count_words(""), 1);
  EXPECT_EQ(count_words("one two"), 2);
  EXPECT_EQ(count_words(" one \n two "), 4);
}

TEST(PythonLiteral, ReadsWhatPythonPrints) {
  const auto value = python_literal("x", R"([{'q': "it's", 'n': -2, 'o': ['\xe9\u4e2d', 'a' "b\n"], 't': (True, None,)}, 1.5])");
  ASSERT_TRUE(value.ok()) << value.error().message;
  EXPECT_EQ(value->dump(), R"([{"q":"it's","n":-2,"o":["é中","ab\n"],"t":[true,null]},1.5])");
}

TEST(PythonLiteral, BrokenOnesSayWhere) {
  const std::string nested(1000, '[');
  for (const char* text : {"", "[", "{'a'}", "'a", "'\\u12'", "'\\ud800'", "[1 2]", "x", "{1: 2}", "'a' 1", nested.c_str()}) {
    const auto value = python_literal("f:3", text);
    ASSERT_FALSE(value.ok()) << text;
    EXPECT_TRUE(value.error().message.starts_with("f:3: no Python literal: byte ")) << value.error().message;
  }
}

// Expected texts: the harness's wikitext_detokenizer.
TEST(WikitextText, IsTheHarnessesDetokenizer) {
  EXPECT_EQ(wikitext_detokenized(" = Robert <unk> = \n \n In 1 @,@ 000 or 2 @.@ 5 , he said : \" well @-@ known \" ; the boys ' ' toys ' ( see also ) [ 1 ] { x } . \n"),
            " = Robert <unk> =\n\nIn 1,000 or 2.5, he said: \"well-known\"; the boys'' toys' (see also) [1] {x}.\n");
  EXPECT_EQ(wikitext_detokenized("= = = = A = = = =\n= = B = ="),
            "==== A ====\n== B ==");
  EXPECT_EQ(wikitext_detokenized("it 's 30 \xc2""\xb0"" N of here /' 5/ ( (nested ) ) unclosed ( x"),
            "it's 30\xc2""\xb0""N of here /'[0-9]/ ((nested) ) unclosed ( x");
  EXPECT_EQ(wikitext_detokenized("a '\nb ' c \" d\ne \" f"),
            "a 'b' c \"d\ne\" f");
  EXPECT_EQ(wikitext_detokenized(" ? ! \" \" ( ) '"),
            " ?! \"\" () '");
}

}  // namespace
}  // namespace retort::harness
