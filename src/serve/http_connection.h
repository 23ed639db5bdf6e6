// One client's connection: what was read of it, what is to be sent, and how both are counted. http_server.cc reads and sends, on one thread;
// http_reply.cc writes answers, on any.
//
// Layer: serve. Internal to the two.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sys/eventfd.h>
#include <unistd.h>

#include "base/timing.h"
#include "serve/http_server.h"

namespace retort::serve {

class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() { close(); }
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

// What connections share: those that somebody wrote to, for the thread that sends, and how much they hold.
struct Waker {
  Descriptor event{eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
  std::mutex mutex;
  std::vector<std::shared_ptr<HttpConnection>> written;
  std::atomic<int64_t> buffered{0};  // bytes of requests in memory
  std::atomic<int64_t> unsent{0};    // bytes of answers in memory

  void wake() const {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t ignored = ::write(event.get(), &one, sizeof one);
  }
  void wake(std::shared_ptr<HttpConnection> connection) {
    {
      std::lock_guard lock(mutex);
      written.push_back(std::move(connection));
    }
    wake();
  }
};

// A request's part of the buffered bytes, or an answer's of the unsent ones.
class Charge {
 public:
  explicit Charge(std::shared_ptr<Waker> waker, std::atomic<int64_t> Waker::*sum = &Waker::buffered) : waker_(std::move(waker)), sum_(sum) {}
  Charge(Charge&& other) noexcept : waker_(other.waker_), sum_(other.sum_), bytes_(std::exchange(other.bytes_, 0)) {}
  Charge& operator=(Charge&&) = delete;
  ~Charge() { set(0); }
  void set(int64_t bytes) { (*waker_).*sum_ += bytes - std::exchange(bytes_, bytes); }

 private:
  std::shared_ptr<Waker> waker_;
  std::atomic<int64_t> Waker::*sum_;
  int64_t bytes_ = 0;
};

class HttpConnection {
 public:
  HttpConnection(int socket, const HttpOptions& options, std::shared_ptr<Waker> waker)
      : fd(socket), parser(options.limits), charge(waker), lag_bytes(options.lag_bytes), unsent_bytes(options.unsent_bytes), waker(waker),
        unsent(waker, &Waker::unsent) {}

  // --- the connections' thread alone ---
  Descriptor fd;
  HttpParser parser;
  std::string in;
  enum class Phase { kReading, kAnswering, kDraining } phase = Phase::kReading;
  Clock::time_point since = Clock::now();  // of the phase; while reading, of the first byte; while draining, of its begin
  uint32_t events = 0;                     // that epoll was asked for
  Charge charge;

  const size_t lag_bytes;
  const int64_t unsent_bytes;
  const std::shared_ptr<Waker> waker;

  // --- under mutex ---
  std::mutex mutex;
  std::string out;
  size_t sent = 0;                         // of out
  Charge unsent;
  Clock::time_point progress = Clock::now();  // when the client last took something, or something was first there to take
  bool flagged = false;                    // in waker->written
  bool over = false, close_after = false;  // the answer is whole; nothing follows it on this connection
  bool gone = false;
  bool stream = false, chunked = false;
  bool keep_alive = true, http10 = false;  // of the request being answered
  std::function<void()> on_gone;
};

// Adds to what is to be sent; `over`: that is the whole answer. Where `limited`, a client that is more than lag_bytes behind is cut off. The caller
// holds no lock.
void put(const std::shared_ptr<HttpConnection>& c, std::string_view data, bool over, bool limited);

}  // namespace retort::serve
