// The chat page as it is in the program.
#include "serve/page.h"

#include <gtest/gtest.h>

namespace retort::serve {
namespace {

size_t count(std::string_view text, std::string_view part) {
  size_t found = 0;
  for (size_t at = 0; (at = text.find(part, at)) != std::string_view::npos; at += part.size()) ++found;
  return found;
}

TEST(ChatPage, IsOneSmallDocumentThatRefersToNothingOutside) {
  EXPECT_EQ(kChatPage.find("<!doctype html>"), 0u);
  EXPECT_LT(kChatPage.size(), 40'000u);
  EXPECT_EQ(count(kChatPage, "@STYLE@") + count(kChatPage, "@SCRIPT@"), 0u);
  EXPECT_EQ(count(kChatPage, "<script"), 1u);
  EXPECT_EQ(count(kChatPage, "<style"), 1u);
  EXPECT_EQ(count(kChatPage, "https:") + count(kChatPage, " src=") + count(kChatPage, "@import") + count(kChatPage, "url("), 0u);
  EXPECT_EQ(count(kChatPage, "http:"), 1u) << "the name space of the icon";
  EXPECT_EQ(count(kChatPage, "style=\"") + count(kChatPage, " onclick=\""), 0u) << "the policy would block them";
  EXPECT_EQ(count(kChatPage, "innerHTML") + count(kChatPage, "insertAdjacentHTML") + count(kChatPage, "eval("), 0u) << "text is no HTML";
}

// The hashes are openssl's: printf b | openssl dgst -sha256 -binary | base64
TEST(ChatPage, ThePolicyNamesTheScriptAndTheStyle) {
  const std::string policy = page_policy("<style>a</style><p>b</p><script type=\"module\">b</script>");
  EXPECT_NE(policy.find("script-src 'sha256-PiPoFgA5WUoziU9lZOGxNIu9egCI1CxKy3PurtWcAJ0='"), std::string::npos) << policy;
  EXPECT_NE(policy.find("style-src 'sha256-ypeBEsobvcr6wjGzmiPcTaeG7/gUfE5yuYB3ha/uSLs='"), std::string::npos) << policy;
  EXPECT_EQ(policy.find("default-src 'none'; "), 0u);
  EXPECT_EQ(policy.find("unsafe"), std::string::npos);
}

}  // namespace
}  // namespace retort::serve
