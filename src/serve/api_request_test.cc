// What the bodies of requests may say, and how they are refused.
#include "serve/api_request.h"

#include <gtest/gtest.h>

#include "serve/api.h"

namespace retort::serve {
namespace {

std::string refused(const std::string& body, bool chat = false) {
  if (chat) {
    const auto r = parse_chat_request(body, {});
    return r.ok() ? "accepted" : r.error().message;
  }
  const auto r = parse_completion_request(body, {});
  return r.ok() ? "accepted" : r.error().message;
}

TEST(ApiRequest, PromptsInEveryForm) {
  const auto count = [](const std::string& prompt) {
    const auto r = parse_completion_request(R"({"prompt": )" + prompt + "}", {});
    EXPECT_TRUE(r.ok()) << r.error().message;
    return r->prompts.size();
  };
  EXPECT_EQ(count(R"("text")"), 1u);
  EXPECT_EQ(count("[1, 2, 3]"), 1u);
  EXPECT_EQ(count("[[1, 2], [3]]"), 2u);
  EXPECT_EQ(count(R"(["a", [1], "b"])"), 3u);
  for (const char* wrong : {"{}", "[]", "1", "[true]", "[[1.5]]", "[[-1]]", "[1, \"a\"]", "[[99999999999]]", "[[[1]]]"}) {
    EXPECT_NE(refused(std::string(R"({"prompt": )") + wrong + "}").find("'prompt"), std::string::npos) << wrong;
  }
}

TEST(ApiRequest, FieldsThatAreReadAndFieldsThatAreNotKnown) {
  const auto r = parse_completion_request(
      R"({"model": "m", "prompt": "a", "max_tokens": 7, "temperature": 0, "top_p": 0.5, "top_k": -1, "seed": 18446744073709551615, "stop": ["x", ""],
          "n": 3, "logprobs": 2, "echo": true, "logit_bias": {"5": -100, "6": 2.5}, "presence_penalty": 1, "frequency_penalty": -2,
          "stream": true, "stream_options": {"include_usage": true}, "user": "u", "whatever": {"a": 1}, "suffix": null, "mirostat": 0, "typical_p": 1.0, "cache_prompt": false, "best_of": 3,
          "response_format": {"type": "json_object"}})",
      {});
  ASSERT_TRUE(r.ok()) << r.error().message;
  EXPECT_EQ(r->model, "m");
  EXPECT_EQ(r->max_tokens, 7);
  EXPECT_EQ(r->sampling.temperature, 0);
  EXPECT_EQ(r->sampling.top_p, 0.5);
  EXPECT_EQ(r->sampling.top_k, 0);
  EXPECT_EQ(r->seed, 18446744073709551615ull);
  EXPECT_EQ(r->stops, std::vector<std::string>{"x"});
  EXPECT_EQ(r->choices, 3);
  EXPECT_EQ(r->top_logprobs, 2);
  EXPECT_FALSE(r->cache_prompt);
  EXPECT_TRUE(r->json && r->echo && r->stream && r->include_usage);
  EXPECT_EQ(r->sampling.logit_bias, (std::vector<std::pair<int, float>>{{5, -1e9f}, {6, 2.5f}}));
  EXPECT_EQ(r->sampling.presence_penalty, 1);
  EXPECT_EQ(r->sampling.frequency_penalty, -2);
}

TEST(ApiRequest, AWrongFieldIsNamed) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {R"("temperature": "hot")", "temperature"}, {R"("temperature": -1)", "temperature"}, {R"("top_p": 2)", "top_p"},
      {R"("max_tokens": 1.5)", "max_tokens"},     {R"("max_tokens": -2)", "max_tokens"},   {R"("n": 0)", "n"},
      {R"("n": 1000)", "n"},                      {R"("stop": 5)", "stop"},                {R"("stop": [5])", "stop"},
      {R"("seed": 1.5)", "seed"},                 {R"("logprobs": true)", "logprobs"},     {R"("logprobs": 21)", "logprobs"},
      {R"("echo": 1)", "echo"},                   {R"("stream": "yes")", "stream"},        {R"("stream_options": 1)", "stream_options"},
      {R"("logit_bias": [1])", "logit_bias"},     {R"("logit_bias": {"a": 1})", "logit_bias"}, {R"("logit_bias": {"1": 101})", "logit_bias"},
      {R"("frequency_penalty": 3)", "frequency_penalty"}, {R"("model": 5)", "model"},      {R"("id_slot": -5)", "id_slot"},
      {R"("mirostat": 2)", "mirostat"},           {R"("typical_p": 0.9)", "typical_p"},    {R"("cache_prompt": 1)", "cache_prompt"},
      {R"("best_of": 2)", "best_of"},             {R"("suffix": "x")", "suffix"},          {R"("response_format": {"type": "json_schema"})", "response_format"},
      {R"("response_format": "json")", "response_format"}, {R"("grammar": "root ::= x")", "grammar"}};
  for (const auto& [field, name] : cases) {
    EXPECT_NE(refused(R"({"prompt": "a", )" + field + "}").find("'" + name + "'"), std::string::npos) << field << ": " << refused(R"({"prompt": "a", )" + field + "}");
  }
  EXPECT_EQ(refused("[]"), "the request: expected a JSON object, found array");
  EXPECT_EQ(refused("{"), "the request: not valid JSON at byte 2");
  EXPECT_EQ(refused(R"({"prompt": [3, -1]})"), "the request: 'prompt[1]' is -1, which is no token id");
  EXPECT_EQ(refused("{}"), "the request: 'prompt' is missing");
  EXPECT_NE(refused("{\"a\":" + std::string(1000, '[')).find("nested deeper"), std::string::npos);
}

TEST(ApiRequest, ChatMessages) {
  const auto r = parse_chat_request(
      R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
          "logprobs": true, "top_logprobs": 3, "max_completion_tokens": 9, "tools": [{"zebra": 1, "ant": 2}]})",
      {});
  ASSERT_TRUE(r.ok()) << r.error().message;
  EXPECT_EQ(r->messages[1]["content"], "ab");
  EXPECT_EQ(r->tools.dump(), R"([{"zebra":1,"ant":2}])") << "keys keep the client's order";
  EXPECT_EQ(r->top_logprobs, 3);
  EXPECT_EQ(r->max_tokens, 9);
  const auto with = [](const std::string& more) { return R"({"messages": [{"role": "user", "content": "a"}])" + more + "}"; };
  EXPECT_EQ(refused(with(""), true), "accepted");
  EXPECT_NE(refused(with(R"(, "top_logprobs": 2)"), true).find("'top_logprobs'"), std::string::npos);
  EXPECT_NE(refused(with(R"(, "tool_choice": "required")"), true).find("'tool_choice'"), std::string::npos);
  EXPECT_NE(refused("{}", true).find("'messages'"), std::string::npos);
  EXPECT_NE(refused(R"({"messages": [{"content": "a"}]})", true).find("'messages[0]'"), std::string::npos);
  EXPECT_NE(refused(R"({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})", true).find("'messages[0].content'"), std::string::npos);
  EXPECT_NE(refused(R"({"messages": [{"role": "user", "content": 5}]})", true).find("'messages[0].content'"), std::string::npos);
}

TEST(ApiRequest, SlotFilesStayInTheirFolder) {
  const auto name = [](const std::string& text) { return parse_slot_file_request(nlohmann::json{{"filename", text}}.dump()); };
  EXPECT_EQ(*name("a-b_c.1"), "a-b_c.1");
  for (const std::string wrong : {"", ".", "..", "../a", "/etc/passwd", "a/b", ".hidden", "a\\b", "a b", "ä"}) EXPECT_FALSE(name(wrong).ok()) << wrong;
  EXPECT_FALSE(name(std::string("a\0b", 3)).ok());
  EXPECT_FALSE(name(std::string(129, 'a')).ok());
}

TEST(ApiKeys, OnlyAWholeKeyFits) {
  const std::vector<std::string> keys = {"secret", "other-key"};
  EXPECT_TRUE(is_key(keys, "secret"));
  EXPECT_TRUE(is_key(keys, "other-key"));
  for (const char* wrong : {"", "s", "secre", "secrets", "secretsecret", "Secret", "other-kez"}) EXPECT_FALSE(is_key(keys, wrong)) << wrong;
}

TEST(ApiOrigins, OnlyOwnAndNamedPagesMayAsk) {
  ApiOptions options;
  options.host = "box";
  EXPECT_TRUE(is_allowed_origin(options, "http://127.0.0.1:8080", "127.0.0.1:8080"));
  EXPECT_TRUE(is_allowed_origin(options, "http://localhost:8080", "localhost:8080"));
  EXPECT_TRUE(is_allowed_origin(options, "http://[::1]:8080", "[::1]:8080"));
  EXPECT_TRUE(is_allowed_origin(options, "http://box:80", "box:80"));
  EXPECT_TRUE(is_allowed_origin(options, "http://192.168.1.7:8080", "192.168.1.7:8080"));
  EXPECT_FALSE(is_allowed_origin(options, "http://page", "127.0.0.1:8080"));
  EXPECT_FALSE(is_allowed_origin(options, "http://evil:8080", "evil:8080"));
  EXPECT_FALSE(is_allowed_origin(options, "null", "127.0.0.1:8080"));
  EXPECT_FALSE(is_allowed_origin(options, "http://", ""));
  options.cors_origin = "http://page";
  EXPECT_TRUE(is_allowed_origin(options, "http://page", "127.0.0.1:8080"));
  EXPECT_FALSE(is_allowed_origin(options, "http://other", "127.0.0.1:8080"));
  options.cors_origin = "*";
  EXPECT_TRUE(is_allowed_origin(options, "http://other", "127.0.0.1:8080"));
}

TEST(ApiOrigins, ANameThatSomebodyElseGaveThisMachineIsNotItsOwn) {
  ApiOptions options;
  options.host = "box";
  for (const char* own : {"127.0.0.1:8080", "localhost", "[::1]:8080", "10.0.0.3", "box:8080", ""}) EXPECT_TRUE(is_own_host(options, own)) << own;
  for (const char* other : {"evil:8080", "127.0.0.1.evil.net", "localhost.evil", "boxer"}) EXPECT_FALSE(is_own_host(options, other)) << other;
  options.cors_origin = "https://chat.example:444";
  EXPECT_TRUE(is_own_host(options, "chat.example:444"));
  EXPECT_FALSE(is_own_host(options, "chat.example"));
}

TEST(ApiSlots, APathNamesASlot) {
  EXPECT_EQ(slot_of_path("/slots/12", ""), 12);
  EXPECT_EQ(slot_of_path("/slots/0/state", "/state"), 0);
  for (const char* bad : {"/slots/", "/slots//state", "/slots/x/state", "/slots/-1/state", "/slots/1234567/state", "/slots/1", "/slots/1/state/", "/state"}) {
    EXPECT_FALSE(slot_of_path(bad, "/state")) << bad;
  }
}

}  // namespace
}  // namespace retort::serve
