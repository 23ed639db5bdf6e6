#include "train/socket_group.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <random>
#include <thread>
#include <vector>

#include "train/recipe.h"

namespace retort::train {
namespace {

// A rank that says nothing for so long is taken for gone. The longest silence is another rank's writing of a student.
constexpr int kSilence = 30 * 60 * 1000;   // milliseconds
constexpr uint32_t kMagic = 0x72746f72;

// Before every message: what is meant, so that ranks whose ways have parted say so instead of computing with each other's bytes.
enum class Kind : uint32_t { kHello, kGather, kScatter, kBroadcast, kSend };
struct Header {
  uint32_t magic = kMagic;
  Kind kind = Kind::kHello;
  uint64_t bytes = 0, number = 0;   // number: a hello's rank
};

class Socket {
 public:
  Socket() = default;
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  int fd() const { return fd_; }

 private:
  int fd_ = -1;
};

Error system_error(const std::string& what) { return io_error("ranks: cannot ", what, ": ", std::strerror(errno)); }

void prepare(int fd) {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);   // a machine that fell silent is noticed without a word to it
  const int idle = 30, interval = 10, count = 6;
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count);
  ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
}

// What is still to be sent and to be received. A message is its header, then its bytes.
struct Flow {
  int fd = -1;
  std::vector<std::span<std::byte>> pieces;
  bool done() const { return pieces.empty(); }

  // As much as goes without waiting. 0: the other side has closed.
  template <class Transfer>
  int advance(const Transfer& transfer) {
    while (!pieces.empty()) {
      if (pieces.front().empty()) {
        pieces.erase(pieces.begin());
        continue;
      }
      const ssize_t n = transfer(pieces.front());
      if (n == 0) return 0;
      if (n < 0) return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 1 : -1;
      pieces.front() = pieces.front().subspan(size_t(n));
    }
    return 1;
  }
};

class SocketGroup : public ProcessGroup {
 public:
  SocketGroup(const GroupOptions& options, std::vector<Socket> peers) : options_(options), peers_(std::move(peers)) {}

  int rank() const override { return options_.rank; }
  int size() const override { return options_.size; }
  int on_this_machine() const override { return options_.on_this_machine; }

  Status all_gather(std::span<const std::byte> part, std::span<std::byte> whole) override {
    const size_t n = part.size();
    const auto piece = [&](int r) { return whole.subspan(size_t(r) * n, n); };
    std::copy(part.begin(), part.end(), piece(rank()).begin());
    for (int step = 0; step + 1 < size(); ++step) {
      RETORT_RETURN_IF_ERROR(exchange(Kind::kGather, right(), piece(before(step)), left(), piece(before(step + 1))));
    }
    return {};
  }

  Status reduce_scatter(std::span<float> whole, std::span<float> part) override {
    const size_t n = part.size();
    const auto piece = [&](int r) { return whole.subspan(size_t(r) * n, n); };
    std::vector<float> arrived(n);
    for (int step = 0; step + 1 < size(); ++step) {
      const auto mine = piece(before(step + 2));
      RETORT_RETURN_IF_ERROR(exchange(Kind::kScatter, right(), std::as_writable_bytes(piece(before(step + 1))), left(),
                                      std::as_writable_bytes(std::span<float>(arrived))));
      for (size_t i = 0; i < n; ++i) mine[i] += arrived[i];
    }
    const auto own = piece(rank());
    std::copy(own.begin(), own.end(), part.begin());
    return {};
  }

  Status broadcast(std::span<std::byte> bytes) override {
    if (!leads()) return exchange(Kind::kBroadcast, -1, {}, 0, bytes);
    for (int r = 1; r < size(); ++r) RETORT_RETURN_IF_ERROR(exchange(Kind::kBroadcast, r, bytes, -1, {}));
    return {};
  }

  Status send(int to, std::span<const std::byte> bytes) override {
    return exchange(Kind::kSend, to, {const_cast<std::byte*>(bytes.data()), bytes.size()}, -1, {});
  }
  Status receive(int from, std::span<std::byte> bytes) override { return exchange(Kind::kSend, -1, {}, from, bytes); }

 private:
  int right() const { return (rank() + 1) % size(); }
  int left() const { return before(1); }
  int before(int steps) const { return ((rank() - steps) % size() + size()) % size(); }

  // Both directions at once: in a ring everybody sends, and a wire holds only so much.
  Status exchange(Kind kind, int to, std::span<std::byte> out, int from, std::span<std::byte> in) {
    Header said{kMagic, kind, out.size(), 0}, heard;
    Flow sending, receiving;
    if (to >= 0) sending = {peers_[size_t(to)].fd(), {std::as_writable_bytes(std::span<Header>(&said, 1)), out}};
    if (from >= 0) receiving = {peers_[size_t(from)].fd(), {std::as_writable_bytes(std::span<Header>(&heard, 1))}};
    bool header = from >= 0;
    while (!sending.done() || !receiving.done()) {
      const int sent = sending.advance([&](std::span<std::byte> piece) { return ::send(sending.fd, piece.data(), piece.size(), MSG_NOSIGNAL); });
      if (sent <= 0) return gone(to);
      const int got = receiving.advance([&](std::span<std::byte> piece) { return ::recv(receiving.fd, piece.data(), piece.size(), 0); });
      if (got <= 0) return gone(from);
      if (header && receiving.done()) {
        if (heard.magic != kMagic || heard.kind != kind || heard.bytes != in.size()) {
          return internal_error("rank ", rank(), ": rank ", from, " sends ", heard.bytes, " bytes for operation ", int(heard.kind), "; expected ",
                                in.size(), " for ", int(kind));
        }
        header = false;
        receiving.pieces = {in};
        continue;
      }
      RETORT_RETURN_IF_ERROR(wait(sending, to, receiving, from));
    }
    return {};
  }

  Status wait(const Flow& sending, int to, const Flow& receiving, int from) const {
    std::vector<pollfd> waiting;
    if (!sending.done()) waiting.push_back({sending.fd, POLLOUT, 0});
    if (!receiving.done()) waiting.push_back({receiving.fd, POLLIN, 0});
    if (waiting.empty()) return {};
    const int ready = ::poll(waiting.data(), waiting.size(), kSilence);
    if (ready < 0 && errno != EINTR) return system_error("wait for another rank");
    if (ready == 0) return io_error("rank ", rank(), ": rank ", receiving.done() ? to : from, " has been silent for ", kSilence / 60000, " minutes");
    return {};
  }

  Error gone(int who) const {
    return io_error("rank ", rank(), ": lost rank ", who, ", which has ended or cannot be reached; --resume goes on from the last checkpoint, if there is one");
  }

  GroupOptions options_;
  std::vector<Socket> peers_;   // by rank; this one's has none
};

// A message during the meeting, when nothing else goes on. All of it within five seconds: a stranger that calls and says nothing, or little,
// holds nobody up for longer.
Status transfer(int fd, Header& header, bool out) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::seconds(5);
  auto left = std::as_writable_bytes(std::span<Header>(&header, 1));
  while (!left.empty()) {
    pollfd waiting{fd, short(out ? POLLOUT : POLLIN), 0};
    const auto patience = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    if (::poll(&waiting, 1, int(std::max<int64_t>(0, patience))) <= 0) return io_error("ranks: no answer from another rank");
    const ssize_t n = out ? ::send(fd, left.data(), left.size(), MSG_NOSIGNAL) : ::recv(fd, left.data(), left.size(), 0);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return io_error("ranks: a rank ended while they met");
    if (n > 0) left = left.subspan(size_t(n));
  }
  return {};
}

sockaddr_in address_of(const std::string& text, uint16_t port) {
  sockaddr_in out{};
  out.sin_family = AF_INET;
  out.sin_port = htons(port);
  ::inet_pton(AF_INET, text.c_str(), &out.sin_addr);
  return out;
}

// Where all ranks are on this machine, nobody else can call.
Result<Socket> listen_on(bool this_machine_alone, uint16_t& port) {
  Socket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in any = address_of(this_machine_alone ? "127.0.0.1" : "0.0.0.0", 0);
  socklen_t size = sizeof any;
  if (socket.fd() < 0 || ::bind(socket.fd(), reinterpret_cast<sockaddr*>(&any), size) != 0 || ::listen(socket.fd(), 1024) != 0 ||
      ::getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&any), &size) != 0) {
    return system_error("listen");
  }
  port = ntohs(any.sin_port);
  return socket;
}

}  // namespace

Result<std::string> own_address(const std::string& host) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_family = AF_INET, hints.ai_socktype = SOCK_DGRAM;
  if (::getaddrinfo(host.c_str(), "9", &hints, &found) != 0 || !found) return invalid("MASTER_ADDR is '", host, "', which names no machine");
  const Socket socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_in own{};
  socklen_t size = sizeof own;
  const bool known = ::connect(socket.fd(), found->ai_addr, found->ai_addrlen) == 0 &&
                     ::getsockname(socket.fd(), reinterpret_cast<sockaddr*>(&own), &size) == 0;   // nothing is sent
  ::freeaddrinfo(found);
  if (!known) return system_error("find the way to " + host);
  if ((ntohl(own.sin_addr.s_addr) >> 24) == 127) {
    ifaddrs* all = nullptr;
    ::getifaddrs(&all);
    for (const ifaddrs* i = all; i; i = i->ifa_next) {
      if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET || (i->ifa_flags & IFF_LOOPBACK) || !(i->ifa_flags & IFF_UP)) continue;
      own = *reinterpret_cast<const sockaddr_in*>(i->ifa_addr);
      break;
    }
    ::freeifaddrs(all);
  }
  char text[INET_ADDRSTRLEN] = {};
  ::inet_ntop(AF_INET, &own.sin_addr, text, sizeof text);
  return std::string(text);
}

std::string rank_names(const std::vector<int>& ranks) { return cat(ranks.size() == 1 ? "rank " : "ranks ", numbers_text(ranks)); }

namespace {

constexpr std::chrono::milliseconds kPause{100};
constexpr const char* kGivenUp = "given up";

// How ranks come together, or leave together.
class Meeting {
 public:
  Meeting(const GroupOptions& options, const MeetingPlace& place)
      : options_(options), place_(place), begin_(Clock::now()), speaks_at_(begin_ + options.silence) {}

  // All have left their addresses at the place.
  Status await_all() {
    for (int r = 0; r < options_.size;) {
      RETORT_TRY(const bool there, place_.has(name_of(r)));
      if (there) {
        ++r;
        continue;
      }
      RETORT_RETURN_IF_ERROR(go_on("never came"));
      std::this_thread::sleep_for(kPause);
    }
    begin_ = Clock::now(), speaks_at_ = begin_ + options_.silence;   // what is left takes no time, unless one of them ends
    return {};
  }

  // Fine while there is a reason to wait. `what` says of those that are missing at the end what they did.
  Status go_on(const char* what, std::vector<int> missing = {}) {
    RETORT_TRY(const bool given_up, place_.has(kGivenUp));
    if (given_up) return leave();
    const auto now = Clock::now();
    const bool over = now - begin_ >= options_.patience;
    if (!over && now < speaks_at_) return {};
    if (missing.empty()) {
      RETORT_TRY(missing, absent());
    }
    if (missing.empty()) return {};
    const auto limit = std::chrono::duration_cast<std::chrono::seconds>(options_.patience).count();
    if (over) return give_up(io_error("ranks: ", rank_names(missing), " of ", options_.size, " ", what, " within ", limit, " s (RETORT_RANKS_TIMEOUT); the others leave"));
    speaks_at_ = now + 3 * options_.silence;
    const auto before = std::find_if(missing.begin(), missing.end(), [&](int r) { return r >= options_.rank; }) - missing.begin();
    if (before != options_.rank || !options_.tell) return {};   // the lowest rank that is there speaks
    const auto waited = std::chrono::duration_cast<std::chrono::seconds>(now - begin_).count();
    options_.tell(cat("waiting for ", rank_names(missing), " of ", options_.size, ", ", waited, " s so far, at most ", limit));
    return {};
  }

  // This rank's error ends the meeting. Of several that have one the first says it.
  Error give_up(Error error) {
    const auto first = place_.claim(kGivenUp);
    if (first.ok() && !*first) error.message.clear();
    leave();
    return error;
  }

  static std::string name_of(int rank) { return cat("rank", rank); }

 private:
  using Clock = std::chrono::steady_clock;

  Result<std::vector<int>> absent() const {
    std::vector<int> out;
    for (int r = 0; r < options_.size; ++r) {
      RETORT_TRY(const bool there, place_.has(name_of(r)));
      if (!there) out.push_back(r);
    }
    return out;
  }

  // Rank 0, in whom the place may be, goes last, but waits no longer than a few seconds.
  Error leave() {
    const auto gone = [](int rank) { return cat("gone", rank); };
    (void)place_.set(gone(options_.rank), "");
    const auto end = Clock::now() + std::chrono::seconds(3);
    for (int r = 1; options_.rank == 0 && r < options_.size && Clock::now() < end;) {
      const auto came = place_.has(name_of(r)), left = place_.has(gone(r));
      if (!came.ok() || !left.ok()) break;
      if (*came && !*left) std::this_thread::sleep_for(kPause);
      else ++r;
    }
    return {ErrorCode::kIo, ""};
  }

  const GroupOptions& options_;
  const MeetingPlace& place_;
  Clock::time_point begin_, speaks_at_;
};

// A connection to a rank before this one, which listens.
Result<Socket> call(const GroupOptions& options, const MeetingPlace& place, int rank, uint64_t secret) {
  RETORT_TRY(const std::string where, place.get(Meeting::name_of(rank)));
  const size_t space = where.find(' ');
  if (space == std::string::npos) return internal_error("rank ", rank, " left no address");
  const sockaddr_in to = address_of(where.substr(0, space), uint16_t(std::atoi(where.c_str() + space + 1)));
  Socket socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (socket.fd() < 0 || ::connect(socket.fd(), reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) {
    return system_error(cat("reach rank ", rank, " at ", where, " from rank ", options.rank));
  }
  prepare(socket.fd());
  Header hello{kMagic, Kind::kHello, secret, uint64_t(options.rank)};
  RETORT_RETURN_IF_ERROR(transfer(socket.fd(), hello, true));
  return socket;
}

// The calls of the ranks behind this one.
Status answer(const GroupOptions& options, const Socket& listener, uint64_t secret, Meeting& meeting, std::vector<Socket>& peers) {
  for (;;) {
    std::vector<int> missing;
    for (int r = options.rank + 1; r < options.size; ++r) {
      if (peers[size_t(r)].fd() < 0) missing.push_back(r);
    }
    if (missing.empty()) return {};
    pollfd waiting{listener.fd(), POLLIN, 0};
    if (::poll(&waiting, 1, int(kPause.count())) <= 0) {
      RETORT_RETURN_IF_ERROR(meeting.go_on("came, but did not call", missing));
      continue;
    }
    Socket socket(::accept4(listener.fd(), nullptr, nullptr, SOCK_CLOEXEC));
    if (socket.fd() < 0) continue;
    prepare(socket.fd());
    Header hello;
    if (!transfer(socket.fd(), hello, false).ok() || hello.magic != kMagic || hello.bytes != secret) continue;   // a stranger
    if (std::find(missing.begin(), missing.end(), int(std::min<uint64_t>(hello.number, 1u << 30))) == missing.end()) continue;
    peers[size_t(hello.number)] = std::move(socket);
  }
}

}  // namespace

Result<std::shared_ptr<ProcessGroup>> connect_group(const GroupOptions& options, const MeetingPlace& place) {
  // A number that only the ranks of this group know: whoever else finds the port is turned away.
  std::random_device random;
  const uint64_t own_secret = (uint64_t(random()) << 32) ^ random();
  if (options.rank == 0) RETORT_RETURN_IF_ERROR(place.set("secret", std::to_string(own_secret)));
  uint16_t port = 0;
  RETORT_TRY(const Socket listener, listen_on(options.on_this_machine == options.size && options.address == "127.0.0.1", port));
  RETORT_RETURN_IF_ERROR(place.set(Meeting::name_of(options.rank), cat(options.address, " ", port)));
  Meeting meeting(options, place);
  RETORT_RETURN_IF_ERROR(meeting.await_all());
  RETORT_TRY(const std::string shared, place.get("secret"));
  const uint64_t secret = std::strtoull(shared.c_str(), nullptr, 10);
  std::vector<Socket> peers(size_t(options.size));
  for (int r = 0; r < options.rank; ++r) {
    auto called = call(options, place, r, secret);
    if (!called.ok()) return meeting.give_up(called.error());
    peers[size_t(r)] = std::move(*called);
  }
  RETORT_RETURN_IF_ERROR(answer(options, listener, secret, meeting, peers));
  return std::shared_ptr<ProcessGroup>(std::make_shared<SocketGroup>(options, std::move(peers)));
}

}  // namespace retort::train
