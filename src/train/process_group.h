// The processes that train one student together (docs/scale.md), and what they say to one another. A rank is one of them; train/rank.h
// ranks heads.
//
// Layer: train, torch-free. One thread at a time. All ranks call the same functions in the same order with the same sizes. A rank that is
// gone is an error (ErrorCode::kIo) to those that wait for it, after which nothing but leaving makes sense.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/error.h"

namespace retort::train {

class ProcessGroup {
 public:
  virtual ~ProcessGroup() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual int on_this_machine() const = 0;   // how many of the ranks
  bool leads() const { return rank() == 0; }
  bool alone() const { return size() == 1; }

  // `whole` has size() pieces of part.size(), in the order of the ranks.
  virtual Status all_gather(std::span<const std::byte> part, std::span<std::byte> whole) = 0;
  // `part` becomes the sum over the ranks of their piece [rank()] of `whole`, which has size() of them and is used up.
  virtual Status reduce_scatter(std::span<float> whole, std::span<float> part) = 0;
  // Rank 0's bytes, everywhere.
  virtual Status broadcast(std::span<std::byte> bytes) = 0;
  // Between two ranks; the other one makes the opposite call.
  virtual Status send(int to, std::span<const std::byte> bytes) = 0;
  virtual Status receive(int from, std::span<std::byte> bytes) = 0;
};

// Of a run that is not shared.
ProcessGroup& one_process();

// The group that the environment names as torchrun sets it: RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT. Without WORLD_SIZE, or with 1, a
// group of one. Waits for the others.
Result<std::shared_ptr<ProcessGroup>> join_process_group();

// Sums over the ranks, in the order of the ranks: the same bits everywhere.
Status sum(ProcessGroup& group, std::span<double> values);
// Rank 0's.
Result<double> of_leader(ProcessGroup& group, double value);
Result<std::string> of_leader(ProcessGroup& group, const std::string& text);
// An error where `own`, which is called `what`, is not what rank 0 has.
Status same(ProcessGroup& group, const std::string& own, const std::string& what);
Result<double> least(ProcessGroup& group, double value);
Result<bool> anybody(ProcessGroup& group, bool own);

// An error of one rank is everybody's. The lowest rank that has one returns it; the others' has no message, for it is said only once.
Status agree(ProcessGroup& group, const Status& own);
template <class T>
Status agree(ProcessGroup& group, const Result<T>& own) { return agree(group, own.ok() ? Status() : Status(own.error())); }
// An error that all ranks have found, each for itself: rank 0 says it.
Error common(const ProcessGroup& group, Error error);

// Rank 0 works alone (files are its own), and whenever it asks for i, all ranks carry out together(i). Everybody returns what lead() does.
using Together = std::function<Status(int64_t)>;
Status led(ProcessGroup& group, const std::function<Status(const Together& ask)>& lead, const Together& together);

// What n rows are dealt into: rank r has rows [r * n / size, (r + 1) * n / size); n is a multiple of size.
inline int dealt(const ProcessGroup& group, int rows) { return rows / group.size(); }

}  // namespace retort::train
