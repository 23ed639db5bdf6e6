// Where ranks meet: the store that torchrun keeps at MASTER_ADDR:MASTER_PORT, or one that rank 0 opens there.
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "train/socket_group.h"

namespace retort::train {
namespace {

std::string setting(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

Result<int> number(const char* name, int least, int most) {
  const std::string text = setting(name);
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size() && value >= least && value <= most) return value;
  const std::string beside = std::string(name) == "WORLD_SIZE" ? "" : cat("WORLD_SIZE is ", setting("WORLD_SIZE"), " and ");
  return invalid(beside, name, text.empty() ? " is not set" : " is '" + text + "'", "; expected a number from ",
                 least, " to ", most, ", as torchrun sets it (without WORLD_SIZE one process trains alone)");
}

// RETORT_RANKS_TIMEOUT, in seconds.
Result<std::chrono::seconds> patience() {
  constexpr std::chrono::seconds kPatience{600};
  const std::string text = setting("RETORT_RANKS_TIMEOUT");
  if (text.empty()) return kPatience;
  int64_t seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error == std::errc() && end == text.data() + text.size() && seconds >= 1 && seconds <= 1'000'000) return std::chrono::seconds(seconds);
  return invalid("RETORT_RANKS_TIMEOUT is '", text, "'; expected how many seconds ranks wait for one another to come, from 1 to 1000000");
}

void tell(const std::string& line) { std::fprintf(stderr, "retort: %s\n", line.c_str()); }

bool listens(const std::string& host, int port) {
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  if (::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) return false;
  bool connected = false;
  for (const addrinfo* at = found; at && !connected; at = at->ai_next) {
    const int fd = ::socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, at->ai_protocol);
    if (fd < 0) continue;
    connected = ::connect(fd, at->ai_addr, at->ai_addrlen) == 0;
    ::close(fd);
  }
  ::freeaddrinfo(found);
  return connected;
}

// c10d's client would wait without a word.
Status await_store(const GroupOptions& options, const std::string& host, int port) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  auto speaks_at = begin + options.silence;
  const std::string where = cat(host, ":", port);
  while (!listens(host, port)) {
    const auto now = Clock::now();
    const auto seconds = [](auto time) { return std::chrono::duration_cast<std::chrono::seconds>(time).count(); };
    if (now - begin >= options.patience) {
      return io_error("rank ", options.rank, ": nothing answers at ", where, ", where rank 0 is to be met (MASTER_ADDR, MASTER_PORT), within ",
                      seconds(options.patience), " s (RETORT_RANKS_TIMEOUT)");
    }
    if (now >= speaks_at) {
      options.tell(cat("rank ", options.rank, " waits for rank 0 at ", where, ", ", seconds(now - begin), " s so far, at most ", seconds(options.patience)));
      speaks_at = now + 3 * options.silence;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
  return {};
}

// libtorch's messages go over several lines.
Error store_error(const std::exception& e, const std::string& where) {
  const std::string text = e.what();
  return io_error("ranks: cannot meet at ", where, ": ", text.substr(0, text.find('\n')));
}

}  // namespace

Result<std::shared_ptr<ProcessGroup>> join_process_group() {
  const std::shared_ptr<ProcessGroup> alone(&one_process(), [](ProcessGroup*) {});
  if (setting("WORLD_SIZE").empty()) return alone;
  GroupOptions options;
  RETORT_TRY(options.size, number("WORLD_SIZE", 1, 4096));
  if (options.size == 1) return alone;
  RETORT_TRY(options.rank, number("RANK", 0, options.size - 1));
  RETORT_TRY(const int port, number("MASTER_PORT", 1, 65535));
  const std::string host = setting("MASTER_ADDR");
  if (host.empty()) return invalid("WORLD_SIZE is ", options.size, " and MASTER_ADDR is not set; expected the machine of rank 0");
  if (!setting("LOCAL_WORLD_SIZE").empty()) {
    RETORT_TRY(options.on_this_machine, number("LOCAL_WORLD_SIZE", 1, options.size));
  }
  if (options.on_this_machine < options.size) {
    RETORT_TRY(options.address, own_address(host));
  }
  RETORT_TRY(options.patience, patience());
  options.tell = tell;
  const bool keeps_store = options.rank == 0 && setting("TORCHELASTIC_USE_AGENT_STORE") != "True";
  if (!keeps_store) RETORT_RETURN_IF_ERROR(await_store(options, host, port));
  const std::string where = cat(host, ":", port);
  try {
    c10d::TCPStoreOptions store;
    store.port = uint16_t(port);
    store.isServer = keeps_store;
    store.waitWorkers = false;
    store.timeout = options.patience;
    auto meeting = c10::make_intrusive<c10d::TCPStore>(host, store);
    // A job that torchrun has started anew meets under other names.
    const std::string prefix = cat("retort/", setting("TORCHELASTIC_RUN_ID"), "/", setting("TORCHELASTIC_RESTART_COUNT"), "/");
    const MeetingPlace place{
        [&](const std::string& key, const std::string& value) -> Status {
          meeting->set(prefix + key, std::vector<uint8_t>(value.begin(), value.end()));
          return {};
        },
        [&](const std::string& key) -> Result<std::string> {
          const auto value = meeting->get(prefix + key);
          return std::string(value.begin(), value.end());
        },
        [&](const std::string& key) -> Result<bool> { return meeting->check({prefix + key}); },
        [&](const std::string& key) -> Result<bool> {
          const bool first = meeting->add(prefix + key + " by", 1) == 1;
          if (first) meeting->set(prefix + key, std::vector<uint8_t>());
          return first;
        }};
    RETORT_TRY(auto group, connect_group(options, place));
    RETORT_RETURN_IF_ERROR(agree(*group, {}));   // rank 0 may close the store
    return group;
  } catch (const std::exception& e) {
    return store_error(e, where);
  }
}

}  // namespace retort::train
