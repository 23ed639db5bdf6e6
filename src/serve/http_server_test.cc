// The server on loopback sockets: what clients do that they should not.
#include "serve/http_server.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/timing.h"

namespace retort::serve {
namespace {

class Client {
 public:
  explicit Client(int port, int receive_buffer = 0) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_buffer > 0) setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    timeval timeout{20, 0};
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(uint16_t(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(socket_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  ~Client() { close(); }
  void close() {
    if (socket_ >= 0) ::close(std::exchange(socket_, -1));
  }
  void say(std::string_view text) {
    while (!text.empty()) {
      const ssize_t count = ::send(socket_, text.data(), text.size(), MSG_NOSIGNAL);
      if (count <= 0) return;
      text.remove_prefix(size_t(count));
    }
  }
  // What arrives until `end` is part of it, or until the server closes.
  std::string hear(std::string_view end = {}) {
    std::string out;
    char bytes[4096];
    while (end.empty() || out.find(end) == std::string::npos) {
      const ssize_t count = recv(socket_, bytes, sizeof bytes, 0);
      if (count <= 0) return out;
      out.append(bytes, size_t(count));
    }
    return out;
  }

 private:
  int socket_;
};

std::unique_ptr<HttpServer> serve(HttpOptions options, HttpServer::Handler handler) {
  options.port = 0;
  auto server = HttpServer::start(options, std::move(handler), [](int status, const std::string& message) { return cat(status, ": ", message); });
  EXPECT_TRUE(server.ok()) << (server.ok() ? "" : server.error().message);
  return std::move(*server);
}

void echo(const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) { reply->send(200, "text/plain", request.method + request.path + request.body); }

TEST(HttpServer, AnswersOneAfterTheOtherOnOneConnection) {
  const auto server = serve({}, echo);
  Client client(server->port());
  for (int i = 0; i < 3; ++i) {
    client.say("POST /a HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi");
    EXPECT_NE(client.hear("POST/ahi").find("200 OK"), std::string::npos);
  }
  client.say("HEAD /b HTTP/1.1\r\nConnection: close\r\n\r\n");
  const std::string head = client.hear();
  EXPECT_NE(head.find("Content-Length: 6"), std::string::npos);
  EXPECT_EQ(head.substr(head.size() - 4), "\r\n\r\n");
}

// Who may not ask is told so by the head, and nothing of the body is kept.
TEST(HttpServer, ABodyThatNobodyWantsIsNotWaitedFor) {
  auto server = HttpServer::start({.port = 0}, echo, [](int, const std::string&) { return std::string(); },
                                  [](const HttpRequest& head) { return head.header("key") == "right"; });
  ASSERT_TRUE(server.ok());
  for (const char* framing : {"Content-Length: 1000000", "Transfer-Encoding: chunked"}) {
    Client client((*server)->port());
    client.say(cat("PUT /a HTTP/1.1\r\n", framing, "\r\n\r\n5\r\nabcde"));
    const std::string heard = client.hear();  // to the connection's end
    EXPECT_NE(heard.find("Connection: close"), std::string::npos);
    EXPECT_TRUE(heard.ends_with("PUT/a")) << heard;
  }
  Client client((*server)->port());
  client.say("PUT /a HTTP/1.1\r\nKey: right\r\nContent-Length: 2\r\n\r\n");
  client.say("hi");
  EXPECT_NE(client.hear("PUT/ahi").find("200 OK"), std::string::npos);
}

TEST(HttpServer, AnAnswerThatNobodyMakesIsAnError) {
  const auto server = serve({}, [](const HttpRequest&, const std::shared_ptr<HttpReply>&) {});
  Client client(server->port());
  client.say("GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(client.hear().find("HTTP/1.1 500 "), 0u);
}

TEST(HttpServer, AStreamWithoutItsEndDoesNotLookWhole) {
  const auto server = serve({}, [](const HttpRequest&, const std::shared_ptr<HttpReply>& reply) {
    reply->begin_stream("text/event-stream");
    reply->write("data: a\n\n");
  });
  Client client(server->port());
  client.say("GET / HTTP/1.1\r\n\r\n");
  const std::string heard = client.hear();
  EXPECT_NE(heard.find("data: a"), std::string::npos);
  EXPECT_EQ(heard.find("\r\n0\r\n"), std::string::npos);
}

// Streams that are held open until the test says.
class Held {
 public:
  HttpServer::Handler handler() {
    return [this](const HttpRequest&, std::shared_ptr<HttpReply> reply) {
      reply->begin_stream("text/event-stream");
      std::lock_guard lock(mutex_);
      reply->on_gone([this] {
        std::lock_guard inner(gone_mutex_);
        ++gone_;
        changed_.notify_all();
      });
      replies_.push_back(std::move(reply));
    };
  }
  bool wait_gone(int count) {
    std::unique_lock lock(gone_mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(20), [&] { return gone_ == count; });
  }
  void write_to_all(std::string_view text) {
    std::lock_guard lock(mutex_);
    for (const auto& reply : replies_) reply->write(text);
  }
  size_t open() {
    std::lock_guard lock(mutex_);
    return replies_.size();
  }
  void end_all() {
    std::lock_guard lock(mutex_);
    for (const auto& reply : replies_) reply->end();
    replies_.clear();
  }

 private:
  std::mutex mutex_, gone_mutex_;
  std::condition_variable changed_;
  int gone_ = 0;
  std::vector<std::shared_ptr<HttpReply>> replies_;
};

TEST(HttpServer, ManyStreamsAreOpenAtOnce) {
  Held held;
  const auto server = serve({.ping_seconds = 0.2}, held.handler());
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 300; ++i) {
    clients.push_back(std::make_unique<Client>(server->port()));
    clients.back()->say("GET / HTTP/1.1\r\n\r\n");
  }
  for (int i = 0; i < 2000 && held.open() < 300; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  ASSERT_EQ(held.open(), 300u);
  for (auto& client : clients) EXPECT_NE(client->hear(": ping").find(": ping"), std::string::npos);
  held.write_to_all("data: x\n\n");
  held.end_all();
  for (auto& client : clients) EXPECT_NE(client->hear("\r\n0\r\n\r\n").find("data: x"), std::string::npos);
}

TEST(HttpServer, WhoLeavesIsNoticed) {
  Held held;
  const auto server = serve({}, held.handler());
  Client client(server->port());
  client.say("GET / HTTP/1.1\r\n\r\n");
  client.hear("\r\n\r\n");
  client.close();
  EXPECT_TRUE(held.wait_gone(1));
  held.write_to_all("nobody hears this");
  held.end_all();
}

TEST(HttpServer, WhoLagsTooFarBehindIsCutOff) {
  Held held;
  const auto server = serve({.lag_bytes = 100'000}, held.handler());
  Client client(server->port(), 4096);
  client.say("GET / HTTP/1.1\r\n\r\n");
  client.hear("\r\n\r\n");
  for (int i = 0; i < 400; ++i) held.write_to_all(std::string(50'000, 'x'));  // 20 MB: more than sockets buffer
  EXPECT_TRUE(held.wait_gone(1));
  held.end_all();
}

TEST(HttpServer, BodiesTogetherAreBounded) {
  const auto server = serve({.buffered_bytes = 10'000}, echo);
  Client first(server->port()), second(server->port());
  first.say("POST / HTTP/1.1\r\nContent-Length: 8000\r\n\r\n" + std::string(7999, 'x'));
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // read before the second
  second.say("POST / HTTP/1.1\r\nContent-Length: 8000\r\n\r\n" + std::string(8000, 'x'));
  const std::string refused = second.hear();
  EXPECT_EQ(refused.find("HTTP/1.1 503 "), 0u) << refused;
  EXPECT_NE(refused.find("Retry-After: 1"), std::string::npos);
  first.say("x");
  EXPECT_NE(first.hear("xxx").find("200 OK"), std::string::npos);
  Client third(server->port());
  third.say("POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc");
  EXPECT_NE(third.hear("abc").find("200 OK"), std::string::npos);
}

TEST(HttpServer, LargeAnswersThatNobodyTakesAreBounded) {
  const std::string large(8 << 20, 'x');  // more than sockets buffer
  const auto server = serve({.unsent_bytes = 12 << 20}, [&](const HttpRequest& request, const std::shared_ptr<HttpReply>& reply) {
    reply->send(200, "text/plain", request.path == "/small" ? "small" : large);
  });
  Client idle(server->port(), 4096), second(server->port()), small(server->port());
  idle.say("GET / HTTP/1.1\r\n\r\n");
  idle.hear("\r\n\r\n");
  second.say("GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
  const std::string refused = second.hear();
  EXPECT_EQ(refused.find("HTTP/1.1 503 "), 0u);
  EXPECT_NE(refused.find("Retry-After: 1"), std::string::npos);
  small.say("GET /small HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(small.hear().find("HTTP/1.1 200 "), 0u);
  idle.close();
  for (int i = 0; i < 100; ++i) {  // until the server has noticed
    Client again(server->port());
    again.say("GET / HTTP/1.1\r\nConnection: close\r\n\r\n");
    const std::string heard = again.hear();
    if (heard.find("HTTP/1.1 200 ") == 0 && heard.size() > large.size()) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  ADD_FAILURE() << "what was never taken is still counted";
}

TEST(HttpServer, ARequestThatDoesNotArriveEnds) {
  const auto server = serve({.request_seconds = 0.3, .idle_seconds = 0.3}, echo);
  Client slow(server->port()), idle(server->port());
  slow.say("POST / HTT");
  EXPECT_EQ(slow.hear().find("HTTP/1.1 408 "), 0u);
  EXPECT_EQ(idle.hear(), "");
}

TEST(HttpServer, StoppingWaitsForWhatIsAnswered) {
  Held held;
  auto server = serve({}, held.handler());
  Client client(server->port());
  client.say("GET / HTTP/1.1\r\n\r\n");
  client.hear("\r\n\r\n");
  server->stop_accepting();
  std::thread ending([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
    held.write_to_all("data: last\n\n");
    held.end_all();
  });
  server->stop(20);
  ending.join();
  EXPECT_NE(client.hear().find("data: last"), std::string::npos);
}

TEST(HttpServer, AHostOrPortThatCannotBeTakenIsSaid) {
  const auto server = serve({}, echo);
  HttpOptions options;
  options.port = server->port();
  const auto second = HttpServer::start(options, echo, [](int, const std::string&) { return std::string(); });
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().message, cat("cannot listen on 127.0.0.1:", server->port(), ": Address already in use"));
}

}  // namespace
}  // namespace retort::serve
