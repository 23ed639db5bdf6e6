// A process group over TCP: every two ranks have a connection. Rings where every rank has as much to say as the others, so that no rank's
// wire carries more than (size - 1) / size of the whole in either direction.
//
// (c10d's gloo would do the same, but pip's torch comes without the headers that it takes.)
//
// Layer: train, torch-free.
#pragma once

#include <functional>

#include "train/process_group.h"

namespace retort::train {

// Where ranks find one another: a dictionary that all of them see. get() waits for the key.
struct MeetingPlace {
  std::function<Status(const std::string& key, const std::string& value)> set;
  std::function<Result<std::string>(const std::string& key)> get;
};

struct GroupOptions {
  int rank = 0, size = 1, on_this_machine = 1;
  std::string address = "127.0.0.1";   // numeric IPv4, at which the other ranks reach this one
};

Result<std::shared_ptr<ProcessGroup>> connect_group(const GroupOptions& options, const MeetingPlace& place);

// This machine's address on the way to `host`, or the first one that is not the loopback's when that is where the way ends.
Result<std::string> own_address(const std::string& host);

}  // namespace retort::train
