#include "serve/http_server.h"

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>
#include <unordered_map>

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/timing.h"
#include "serve/http_connection.h"

namespace retort::serve {
namespace {

constexpr int kTickMilliseconds = 200;
constexpr double kDrainSeconds = 1;
constexpr int kRefusedConnections = 64;  // beyond the limit: told so instead of cut off
constexpr size_t kKeptBuffer = 1 << 20;  // more than that is given back once it was sent
constexpr std::string_view kPing = ": ping\n\n";

}  // namespace

struct HttpServer::Impl {
  HttpOptions options;
  Handler handler;
  ErrorBody error_body;
  Admission admission;
  Descriptor listener, poll;
  std::shared_ptr<Waker> waker = std::make_shared<Waker>();
  int port = 0;
  std::atomic<int> open{0};
  std::atomic<bool> accepting{true}, stopping{false};
  std::atomic<int64_t> stop_milliseconds{0};
  bool listening = false;  // the listener is in the poll set
  std::unordered_map<int, std::shared_ptr<HttpConnection>> connections;
  std::thread loop_thread;

  std::mutex work_mutex;
  std::condition_variable work_there;
  struct Work {
    HttpRequest request;
    std::shared_ptr<HttpReply> reply;
    Charge charge;
  };
  std::deque<Work> work;
  bool work_over = false;
  std::vector<std::thread> workers;

  Status listen();
  void run();
  void accept_all();
  void read(const std::shared_ptr<HttpConnection>& c);
  void take_requests(const std::shared_ptr<HttpConnection>& c);
  void dispatch(const std::shared_ptr<HttpConnection>& c, bool whole = true);
  void answer_error(const std::shared_ptr<HttpConnection>& c, int status, const std::string& message);
  void send_some(const std::shared_ptr<HttpConnection>& c);
  void answered(const std::shared_ptr<HttpConnection>& c, bool close_after);
  void drain(const std::shared_ptr<HttpConnection>& c);
  void want(HttpConnection& c, uint32_t events);
  void drop(const std::shared_ptr<HttpConnection>& c);
  void sweep();
  void work_loop();
};

Status HttpServer::Impl::listen() {
  addrinfo hints{}, *found = nullptr;
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  const int error = getaddrinfo(options.host.c_str(), std::to_string(options.port).c_str(), &hints, &found);
  if (error != 0) return invalid("--host ", options.host, ": ", gai_strerror(error));
  int last_error = 0;
  for (const addrinfo* a = found; a && listener.get() < 0; a = a->ai_next) {
    Descriptor socket(::socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const int on = 1;
    setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (socket.get() >= 0 && bind(socket.get(), a->ai_addr, a->ai_addrlen) == 0 && ::listen(socket.get(), 1024) == 0) {
      listener = std::move(socket);
    } else {
      last_error = errno;
    }
  }
  freeaddrinfo(found);
  if (listener.get() < 0) return io_error("cannot listen on ", options.host, ":", options.port, ": ", std::strerror(last_error));
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  getsockname(listener.get(), reinterpret_cast<sockaddr*>(&address), &size);
  port = ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port : reinterpret_cast<sockaddr_in&>(address).sin_port);
  poll = Descriptor(epoll_create1(EPOLL_CLOEXEC));
  if (poll.get() < 0 || waker->event.get() < 0) return io_error("cannot wait for connections: ", std::strerror(errno));
  epoll_event event{EPOLLIN, {.fd = waker->event.get()}};
  epoll_ctl(poll.get(), EPOLL_CTL_ADD, waker->event.get(), &event);
  return {};
}

void HttpServer::Impl::run() {
  std::vector<epoll_event> events(256);
  auto last_sweep = Clock::now();
  std::optional<Clock::time_point> end;
  for (;;) {
    if (accepting != listening) {
      epoll_event event{EPOLLIN, {.fd = listener.get()}};
      epoll_ctl(poll.get(), accepting ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, listener.get(), &event);
      listening = accepting;
      if (!accepting) listener.close();
    }
    const int count = epoll_wait(poll.get(), events.data(), int(events.size()), kTickMilliseconds);
    for (int i = 0; i < count; ++i) {
      const int fd = events[size_t(i)].data.fd;
      const uint32_t what = events[size_t(i)].events;
      if (fd == waker->event.get()) {
        uint64_t ignored;
        [[maybe_unused]] const ssize_t n = ::read(fd, &ignored, sizeof ignored);
        continue;
      }
      if (listener.get() >= 0 && fd == listener.get()) {
        accept_all();
        continue;
      }
      const auto found = connections.find(fd);
      if (found == connections.end()) continue;
      const auto c = found->second;
      if (what & (EPOLLERR | EPOLLHUP)) drop(c);
      else if (c->phase == HttpConnection::Phase::kAnswering && (what & EPOLLRDHUP)) drop(c);
      else if (what & (EPOLLIN | EPOLLRDHUP)) read(c);
      if ((what & EPOLLOUT) && c->fd.get() >= 0) send_some(c);
    }
    std::vector<std::shared_ptr<HttpConnection>> written;
    {
      std::lock_guard lock(waker->mutex);
      written.swap(waker->written);
    }
    for (const auto& c : written) {
      {
        std::lock_guard lock(c->mutex);
        c->flagged = false;
      }
      if (c->fd.get() >= 0) send_some(c);
    }
    if (seconds_since(last_sweep) * 1000 >= kTickMilliseconds) {
      sweep();
      last_sweep = Clock::now();
    }
    if (stopping) {
      if (!end) end = Clock::now() + std::chrono::milliseconds(stop_milliseconds);
      const bool busy = std::any_of(connections.begin(), connections.end(), [](const auto& entry) { return entry.second->phase != HttpConnection::Phase::kReading; });
      if (!busy || Clock::now() > *end) break;
    }
  }
  while (!connections.empty()) drop(connections.begin()->second);
}

void HttpServer::Impl::accept_all() {
  for (int i = 0; i < 64; ++i) {
    const int fd = accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      // Out of descriptors: no use to be woken for what cannot be taken; the next sweep listens again.
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
        epoll_event none{0, {.fd = listener.get()}};
        epoll_ctl(poll.get(), EPOLL_CTL_MOD, listener.get(), &none);
      }
      return;
    }
    const int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    const auto c = std::make_shared<HttpConnection>(fd, options, waker);
    const int already = int(connections.size());
    if (already >= options.connections + kRefusedConnections) continue;  // closes it
    connections[fd] = c;
    open = already + 1;
    epoll_event event{0, {.fd = fd}};
    epoll_ctl(poll.get(), EPOLL_CTL_ADD, fd, &event);
    want(*c, EPOLLIN);
    if (already >= options.connections) answer_error(c, 503, cat("more than ", options.connections, " connections"));
  }
}

void HttpServer::Impl::want(HttpConnection& c, uint32_t events) {
  if (c.events == events) return;
  epoll_event event{events, {.fd = c.fd.get()}};
  epoll_ctl(poll.get(), EPOLL_CTL_MOD, c.fd.get(), &event);
  c.events = events;
}

void HttpServer::Impl::read(const std::shared_ptr<HttpConnection>& c) {
  char bytes[64 << 10];
  const ssize_t count = recv(c->fd.get(), bytes, sizeof bytes, 0);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (count <= 0) return drop(c);
  if (c->phase != HttpConnection::Phase::kReading) return;  // drained: read over
  if (c->parser.untouched() && c->in.empty()) c->since = Clock::now();
  c->in.append(bytes, size_t(count));
  take_requests(c);
}

void HttpServer::Impl::take_requests(const std::shared_ptr<HttpConnection>& c) {
  const auto state = c->parser.feed(c->in);
  c->charge.set(int64_t(c->parser.request().body.size() + c->in.size()));
  if (waker->buffered > options.buffered_bytes) return answer_error(c, 503, "too many bytes of requests are in memory");
  if (state == HttpParser::State::kBad) return answer_error(c, c->parser.error_status(), c->parser.error());
  if (state == HttpParser::State::kDone) return dispatch(c);
  if (c->parser.take_head() && admission && !admission(c->parser.request())) {
    c->in.clear();
    c->charge.set(0);
    return dispatch(c, false);
  }
  if (c->parser.take_expects_continue()) put(c, "HTTP/1.1 100 Continue\r\n\r\n", false, false);
}

// Not whole: the body is not waited for, and the connection ends with the answer.
void HttpServer::Impl::dispatch(const std::shared_ptr<HttpConnection>& c, bool whole) {
  HttpRequest request = std::move(c->parser.request());
  if (!whole) request.body.clear(), request.keep_alive = false;
  {
    std::lock_guard lock(c->mutex);
    c->keep_alive = request.keep_alive && accepting;
    c->http10 = request.http10;
    c->over = c->stream = c->chunked = false;
  }
  c->phase = HttpConnection::Phase::kAnswering;
  want(*c, EPOLLRDHUP);
  auto reply = std::make_shared<HttpReply>(c, request.method == "HEAD");
  {
    std::lock_guard lock(work_mutex);
    if (work.size() < size_t(options.waiting)) {
      work.push_back({std::move(request), std::move(reply), std::move(c->charge)});
      work_there.notify_one();
      return;
    }
  }
  c->charge.set(int64_t(c->in.size()));
  reply->add_header("Retry-After", "1");
  reply->send(503, "application/json", error_body(503, "too many requests wait to be read"));
}

void HttpServer::Impl::answer_error(const std::shared_ptr<HttpConnection>& c, int status, const std::string& message) {
  const std::string body = error_body(status, message);  // first: the message may be the parser's
  {
    std::lock_guard lock(c->mutex);
    c->keep_alive = false;
    c->http10 = c->over = c->stream = c->chunked = false;
  }
  c->phase = HttpConnection::Phase::kAnswering;
  c->in.clear();
  c->parser.reset();
  c->charge.set(0);
  HttpReply reply(c, false);
  if (status == 503) reply.add_header("Retry-After", "1");
  reply.send(status, "application/json", body);
}

void HttpServer::Impl::send_some(const std::shared_ptr<HttpConnection>& c) {
  bool over, close_after, empty;
  {
    std::lock_guard lock(c->mutex);
    while (c->sent < c->out.size()) {
      const ssize_t count = ::send(c->fd.get(), c->out.data() + c->sent, c->out.size() - c->sent, MSG_NOSIGNAL);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0 && errno != EAGAIN) {
        c->out.clear();
        c->sent = 0;
        c->over = c->close_after = true;
        break;
      }
      if (count < 0) break;
      c->sent += size_t(count);
      c->progress = Clock::now();
    }
    if (c->sent == c->out.size()) {
      if (c->out.capacity() > kKeptBuffer) c->out = {};
      c->out.clear();
      c->sent = 0;
    } else if (c->sent > std::max<size_t>(1 << 20, c->out.size() / 2)) {
      c->out.erase(0, c->sent);
      c->sent = 0;
    }
    c->unsent.set(int64_t(c->out.size()));
    empty = c->out.empty();
    over = c->over;
    close_after = c->close_after || !c->keep_alive;
  }
  const uint32_t writing = empty ? 0 : uint32_t(EPOLLOUT);
  if (c->phase == HttpConnection::Phase::kReading) return want(*c, EPOLLIN | writing);  // "100 Continue"
  if (c->phase == HttpConnection::Phase::kDraining) return;
  want(*c, EPOLLRDHUP | writing);
  if (over && empty) answered(c, close_after);
}

void HttpServer::Impl::answered(const std::shared_ptr<HttpConnection>& c, bool close_after) {
  if (close_after) return drain(c);
  c->phase = HttpConnection::Phase::kReading;
  c->since = Clock::now();
  c->parser.reset();
  want(*c, EPOLLIN);
  if (!c->in.empty()) take_requests(c);
}

// Closing at once, with unread bytes, would make the client's side throw the answer away.
void HttpServer::Impl::drain(const std::shared_ptr<HttpConnection>& c) {
  std::function<void()> call;
  {
    std::lock_guard lock(c->mutex);
    c->gone = true;
    call = std::exchange(c->on_gone, nullptr);
  }
  c->phase = HttpConnection::Phase::kDraining;
  c->since = Clock::now();
  shutdown(c->fd.get(), SHUT_WR);
  want(*c, EPOLLIN);
  if (call) call();
}

void HttpServer::Impl::drop(const std::shared_ptr<HttpConnection>& c) {
  const std::shared_ptr<HttpConnection> keep = c;  // the reference may be the map's own
  std::function<void()> call;
  {
    std::lock_guard lock(keep->mutex);
    keep->gone = true;
    call = std::exchange(keep->on_gone, nullptr);
  }
  connections.erase(keep->fd.get());
  open = int(connections.size());
  keep->fd.close();
  if (call) call();
}

void HttpServer::Impl::sweep() {
  if (listening) {
    epoll_event event{EPOLLIN, {.fd = listener.get()}};
    epoll_ctl(poll.get(), EPOLL_CTL_MOD, listener.get(), &event);
  }
  std::vector<std::shared_ptr<HttpConnection>> all;
  for (const auto& [fd, c] : connections) all.push_back(c);
  for (const auto& c : all) {
    const double seconds = seconds_since(c->since);
    if (c->phase == HttpConnection::Phase::kReading) {
      const bool idle = c->parser.untouched() && c->in.empty();
      if (idle && (seconds > options.idle_seconds || !accepting)) drop(c);
      else if (!idle && seconds > options.request_seconds) answer_error(c, 408, cat("the request did not arrive within ", options.request_seconds, " s"));
      continue;
    }
    if (c->phase == HttpConnection::Phase::kDraining) {
      if (seconds > kDrainSeconds) drop(c);
      continue;
    }
    double still;
    bool writing, stream, over;
    {
      std::lock_guard lock(c->mutex);
      still = seconds_since(c->progress);
      writing = !c->out.empty();
      stream = c->stream;
      over = c->over;
    }
    if (writing && still > options.stall_seconds) drop(c);
    else if (!writing && stream && !over && options.ping_seconds > 0 && still > options.ping_seconds) {
      put(c, c->chunked ? http_chunk(kPing) : std::string(kPing), false, true);
    }
  }
}

void HttpServer::Impl::work_loop() {
  for (;;) {
    std::unique_lock lock(work_mutex);
    work_there.wait(lock, [&] { return work_over || !work.empty(); });
    if (work_over) return;
    Work next = std::move(work.front());
    work.pop_front();
    lock.unlock();
    if (next.reply->gone()) continue;
    try {
      handler(next.request, std::move(next.reply));
    } catch (const std::exception&) {  // out of memory: a reply that goes away unanswered says 500
    }
  }
}

HttpServer::HttpServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<HttpServer>> HttpServer::start(HttpOptions options, Handler handler, ErrorBody error_body, Admission admission) {
  auto impl = std::make_unique<Impl>();
  impl->options = std::move(options);
  impl->handler = std::move(handler);
  impl->error_body = std::move(error_body);
  impl->admission = std::move(admission);
  RETORT_RETURN_IF_ERROR(impl->listen());
  Impl* raw = impl.get();
  impl->loop_thread = std::thread([raw] { raw->run(); });
  for (int i = 0; i < impl->options.workers; ++i) impl->workers.emplace_back([raw] { raw->work_loop(); });
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(impl)));
}

HttpServer::~HttpServer() { stop(0); }

int HttpServer::port() const { return impl_->port; }
int HttpServer::connections() const { return impl_->open; }

void HttpServer::stop_accepting() {
  impl_->accepting = false;
  impl_->waker->wake();
}

void HttpServer::stop(double seconds) {
  if (!impl_->loop_thread.joinable()) return;
  stop_accepting();
  impl_->stop_milliseconds = int64_t(1000 * seconds);
  impl_->stopping = true;
  impl_->waker->wake();
  impl_->loop_thread.join();
  {
    std::lock_guard lock(impl_->work_mutex);
    impl_->work_over = true;
    impl_->work.clear();
    impl_->work_there.notify_all();
  }
  for (auto& worker : impl_->workers) worker.join();
}

}  // namespace retort::serve
