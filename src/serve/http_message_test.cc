// HTTP requests in every cut, and the ones that must be refused.
#include "serve/http_message.h"

#include <gtest/gtest.h>

namespace retort::serve {
namespace {

using State = HttpParser::State;

HttpParser::State feed_all(HttpParser& parser, std::string text, size_t step) {
  std::string input;
  State state = parser.state();
  while (!text.empty() && state != State::kDone && state != State::kBad) {
    input += text.substr(0, step);
    text.erase(0, std::min(step, text.size()));
    state = parser.feed(input);
  }
  return state;
}

TEST(HttpParser, ReadsARequestInAnyPieces) {
  const std::string text =
      "\r\nPOST /v1/x?action=save&a=b HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\nX-Two:  words here \t\r\n\r\nhello";
  for (const size_t step : {1, 2, 3, 7, 1000}) {
    HttpParser parser{HttpLimits{}};
    ASSERT_EQ(feed_all(parser, text, step), State::kDone) << step << parser.error();
    const HttpRequest& r = parser.request();
    EXPECT_EQ(r.method, "POST");
    EXPECT_EQ(r.path, "/v1/x");
    EXPECT_EQ(r.query_field("action"), "save");
    EXPECT_EQ(r.query_field("a"), "b");
    EXPECT_EQ(r.query_field("b"), "");
    EXPECT_EQ(r.header("x-two"), "words here");
    EXPECT_EQ(r.body, "hello");
    EXPECT_TRUE(r.keep_alive);
  }
}

TEST(HttpParser, ReadsAChunkedBodyAndLeavesTheNextRequest) {
  const std::string text = "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: 1\r\n\r\n";
  for (const size_t step : {1, 5, 1000}) {
    HttpParser parser{HttpLimits{}};
    ASSERT_EQ(feed_all(parser, text, step), State::kDone) << step << parser.error();
    EXPECT_EQ(parser.request().body, "abc0123456789");
  }
  HttpParser parser{HttpLimits{}};
  std::string two = text + "GET /b HTTP/1.0\r\n\r\n";
  ASSERT_EQ(parser.feed(two), State::kDone);
  parser.reset();
  EXPECT_TRUE(parser.untouched());
  ASSERT_EQ(parser.feed(two), State::kDone);
  EXPECT_EQ(parser.request().path, "/b");
  EXPECT_FALSE(parser.request().keep_alive);
}

TEST(HttpParser, ExpectContinueIsToldOnce) {
  HttpParser parser{HttpLimits{}};
  std::string text = "POST / HTTP/1.1\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n";
  EXPECT_EQ(parser.feed(text), State::kBody);
  EXPECT_TRUE(parser.take_expects_continue());
  EXPECT_FALSE(parser.take_expects_continue());
}

TEST(HttpParser, RefusesWhatIsWrong) {
  const std::vector<std::pair<std::string, int>> cases = {
      {"GET\r\n\r\n", 400},
      {"GET / HTTP/2.0\r\n\r\n", 505},
      {"GET / FTP/1.1\r\n\r\n", 400},
      {"GET http://x/ HTTP/1.1\r\n\r\n", 400},
      {"G T / HTTP/1.1\r\n\r\n", 400},
      {"GET /a b HTTP/1.1\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nA: 1\r\n folded\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nA : 1\r\n\r\n", 400},
      {"GET / HTTP/1.1\r\nA: 1\nB: 2\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nContent-Length: 1x\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400},
      {"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501},
      {"POST / HTTP/1.1\r\nContent-Length: 101\r\n\r\n", 413},
      {"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 413},
      {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n", 413},
      {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", 400},
      {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc", 400},
      {"GET /" + std::string(2000, 'x') + " HTTP/1.1\r\n\r\n", 431},
      {std::string("GET /\0 HTTP/1.1\r\n\r\n", 19), 400},
  };
  for (const auto& [text, status] : cases) {
    for (const size_t step : {1, 4096}) {
      HttpParser parser{HttpLimits{.head_bytes = 1000, .headers = 10, .body_bytes = 100}};
      EXPECT_EQ(feed_all(parser, text, step), State::kBad) << text;
      EXPECT_EQ(parser.error_status(), status) << text << ": " << parser.error();
    }
  }
  HttpParser parser{HttpLimits{.head_bytes = 1000, .headers = 10, .body_bytes = 100}};
  std::string many = "GET / HTTP/1.1\r\n";
  for (int i = 0; i < 11; ++i) many += "A: b\r\n";
  EXPECT_EQ(feed_all(parser, many + "\r\n", 4096), State::kBad);
  EXPECT_EQ(parser.error_status(), 431);
}

TEST(HttpMessage, HeadsAndChunks) {
  EXPECT_EQ(http_head(200, "text/plain", {{"A", "b"}}, 3, true, false),
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nA: b\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_NE(http_head(200, "", {}, -1, true, false).find("Transfer-Encoding: chunked"), std::string::npos);
  EXPECT_EQ(http_head(200, "", {}, -1, false, true).find("Transfer-Encoding"), std::string::npos);
  EXPECT_EQ(http_chunk(std::string(17, 'x')), "11\r\n" + std::string(17, 'x') + "\r\n");
  EXPECT_EQ(http_chunk(""), "0\r\n\r\n");
}

TEST(HttpParser, WhatIsPutHasALimitOfItsOwn) {
  const HttpLimits limits{.body_bytes = 100, .put_bytes = 1000};
  for (const std::string length : {"Content-Length: 900\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n384\r\n"}) {
    HttpParser post{limits}, put{limits};
    EXPECT_EQ(feed_all(post, "POST / HTTP/1.1\r\n" + length, 1000), State::kBad);
    EXPECT_EQ(post.error_status(), 413);
    EXPECT_NE(feed_all(put, "PUT / HTTP/1.1\r\n" + length, 1000), State::kBad) << put.error();
  }
  HttpParser put{limits};
  EXPECT_EQ(feed_all(put, "PUT / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", 1000), State::kBad);
}

}  // namespace
}  // namespace retort::serve
