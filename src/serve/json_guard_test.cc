// The guard against nlohmann's parser, on every beginning of texts that are JSON and of texts that nearly are.
#include "serve/json_guard.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "runtime/random.h"

namespace retort::serve {
namespace {

bool whole(const std::string& text) {
  JsonGuard guard;
  return guard.accept(text) && guard.complete();
}

TEST(JsonGuard, TakesJsonByteByByte) {
  for (const std::string text : {"{}", "{ \"a\" : [ 1 , -0.5e+3 , 0, 12E7, true, false, null, \"x\\u00e9\\n\\\"\", {}, [] ] , \"b\":{\"c\":[[]]}}", "\n{\"\":\"\"}",
                                 "{\"\xc3\xa9\":0}"}) {
    ASSERT_TRUE(nlohmann::json::accept(text)) << text;
    JsonGuard guard;
    for (size_t i = 0; i < text.size(); ++i) {
      EXPECT_FALSE(guard.complete()) << text << " at " << i;
      EXPECT_TRUE(guard.accept(text.substr(i, 1))) << text << " at " << i;
    }
    EXPECT_TRUE(guard.complete()) << text;
  }
}

TEST(JsonGuard, RefusesWhatIsNone) {
  for (const std::string text : {"[]", "1", "\"a\"", "{,", "{\"a\",", "{\"a\":}", "{\"a\":1,}", "{\"a\":[1,]", "{\"a\":01", "{\"a\":+1", "{\"a\":.5", "{\"a\":1.}",
                                 "{\"a\":1e}", "{\"a\":tru}", "{\"a\":nul}", "{\"a\":\"\\x", "{\"a\":\"\\u12g", "{\"a\":\"\n", "{\"a\":[}", "{\"a\":{]", "{}}", "{}{", "{a",
                                 "{\"a\":1 2"}) {
    JsonGuard guard;
    EXPECT_FALSE(guard.accept(text)) << text;
  }
  JsonGuard deep;
  std::string lists = "{\"a\":";
  for (int i = 0; i < 63; ++i) lists += '[';
  EXPECT_TRUE(deep.accept(lists));
  EXPECT_FALSE(deep.accept("["));
  JsonGuard spaces;
  EXPECT_TRUE(spaces.accept("{" + std::string(16, ' ')));
  EXPECT_FALSE(spaces.accept(" "));
}

TEST(JsonGuard, SurrogatesComeInPairs) {
  for (const std::string text : {R"({"a":"\ud83d\ude00"})", R"({"\uDBFF\uDFFF":"\ud7ff\ue000"})"}) {
    EXPECT_TRUE(nlohmann::json::accept(text)) << text;
    EXPECT_TRUE(whole(text)) << text;
  }
  for (const std::string text : {R"({"a":"\ud83d")", R"({"a":"\ud83dx)", R"({"a":"\ud83d\n)", R"({"a":"\ud83d\ud83d)", R"({"a":"\ud83d\u0041)", R"({"a":"\ude00)"}) {
    JsonGuard guard;
    EXPECT_FALSE(guard.accept(text)) << text;
  }
}

// Random walks: whatever the guard takes and calls whole is JSON, and every beginning that it takes can be ended.
TEST(JsonGuard, RandomTextsAgreeWithAParser) {
  const std::string alphabet = "{}[]\":,01.e-+ \\untrlfasdd88cc";
  Random random(5);
  int wholes = 0;
  for (int walk = 0; walk < 1000; ++walk) {
    JsonGuard guard;
    std::string text;
    for (int step = 0; step < 60 && !guard.complete(); ++step) {
      const char c = alphabet[random.next() % alphabet.size()];
      JsonGuard next = guard;
      if (!next.accept(std::string(1, c))) {
        if (text.find('{') != std::string::npos) {  // a root of another kind is JSON too
          EXPECT_FALSE(nlohmann::json::accept(text + c)) << text << c;
        }
        continue;
      }
      guard = next;
      text += c;
      EXPECT_EQ(guard.complete(), nlohmann::json::accept(text)) << text;
    }
    wholes += guard.complete();
  }
  EXPECT_GT(wholes, 60);
  EXPECT_FALSE(whole("{\"a\":1"));
}

}  // namespace
}  // namespace retort::serve
