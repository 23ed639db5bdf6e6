// Where ranks meet: the store that torchrun keeps at MASTER_ADDR:MASTER_PORT, or one that rank 0 opens there.
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <charconv>
#include <cstdlib>

#include "train/socket_group.h"

namespace retort::train {
namespace {

constexpr std::chrono::minutes kPatience{10};

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
  const std::string where = cat(host, ":", port);
  try {
    c10d::TCPStoreOptions store;
    store.port = uint16_t(port);
    store.isServer = options.rank == 0 && setting("TORCHELASTIC_USE_AGENT_STORE") != "True";
    store.waitWorkers = false;
    store.timeout = kPatience;
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
        }};
    RETORT_TRY(auto group, connect_group(options, place));
    RETORT_RETURN_IF_ERROR(agree(*group, {}));   // rank 0 may close the store
    return group;
  } catch (const std::exception& e) {
    return store_error(e, where);
  }
}

}  // namespace retort::train
