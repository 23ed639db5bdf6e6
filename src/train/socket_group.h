// A process group over TCP: every two ranks have a connection. Rings where every rank has as much to say as the others, so that no rank's
// wire carries more than (size - 1) / size of the whole in either direction.
//
// (c10d's gloo would do the same, but pip's torch comes without the headers that it takes.)
//
// Layer: train, torch-free.
#pragma once

#include <chrono>
#include <functional>

#include "train/process_group.h"

namespace retort::train {

// Where ranks find one another: a dictionary that all of them see.
struct MeetingPlace {
  std::function<Status(const std::string& key, const std::string& value)> set;
  std::function<Result<std::string>(const std::string& key)> get;   // of a key that is there
  std::function<Result<bool>(const std::string& key)> has;
  std::function<Result<bool>(const std::string& key)> claim;        // true for who asks first
};

struct GroupOptions {
  int rank = 0, size = 1, on_this_machine = 1;
  std::string address = "127.0.0.1";   // numeric IPv4, at which the other ranks reach this one
  std::chrono::milliseconds patience = std::chrono::minutes(10);    // how long the others may take to come
  std::chrono::milliseconds silence = std::chrono::seconds(10);     // after so long it is said whom they wait for, and every three times that
  std::function<void(const std::string& line)> tell = {};
};

// Waits for all ranks. When some do not come, or end before they have met, all that are there leave: one of them with an error that names those, the others
// with one that has no message.
Result<std::shared_ptr<ProcessGroup>> connect_group(const GroupOptions& options, const MeetingPlace& place);

// "rank 3", "ranks 1-3,7"
std::string rank_names(const std::vector<int>& ranks);

// This machine's address on the way to `host`, or the first one that is not the loopback's when that is where the way ends.
Result<std::string> own_address(const std::string& host);

}  // namespace retort::train
