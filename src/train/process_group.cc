#include "train/process_group.h"

#include <algorithm>
#include <vector>

namespace retort::train {
namespace {

class OneProcess : public ProcessGroup {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  int on_this_machine() const override { return 1; }
  Status all_gather(std::span<const std::byte> part, std::span<std::byte> whole) override {
    std::copy(part.begin(), part.end(), whole.begin());
    return {};
  }
  Status reduce_scatter(std::span<float> whole, std::span<float> part) override {
    std::copy(whole.begin(), whole.end(), part.begin());
    return {};
  }
  Status broadcast(std::span<std::byte>) override { return {}; }
  Status send(int, std::span<const std::byte>) override { return internal_error("there is nobody to send to"); }
  Status receive(int, std::span<std::byte>) override { return internal_error("there is nobody to receive from"); }
};

template <class T>
std::span<std::byte> bytes_of(T& value) { return std::as_writable_bytes(std::span<T>(&value, 1)); }

}  // namespace

ProcessGroup& one_process() {
  static OneProcess group;
  return group;
}

Status sum(ProcessGroup& group, std::span<double> values) {
  if (group.alone()) return {};
  std::vector<double> all(values.size() * size_t(group.size()));
  RETORT_RETURN_IF_ERROR(group.all_gather(std::as_bytes(values), std::as_writable_bytes(std::span<double>(all))));
  std::fill(values.begin(), values.end(), 0.0);
  for (size_t i = 0; i < all.size(); ++i) values[i % values.size()] += all[i];
  return {};
}

Status same(ProcessGroup& group, const std::string& own, const std::string& what) {
  RETORT_TRY(const std::string leaders, of_leader(group, own));
  return agree(group, own == leaders ? Status() : Status(invalid("rank ", group.rank(), ": ", what, " is not that of rank 0")));
}

Result<double> least(ProcessGroup& group, double value) {
  std::vector<double> all(size_t(group.size()));
  RETORT_RETURN_IF_ERROR(group.all_gather(std::as_bytes(std::span<const double>(&value, 1)), std::as_writable_bytes(std::span<double>(all))));
  return *std::min_element(all.begin(), all.end());
}

Result<bool> anybody(ProcessGroup& group, bool own) {
  RETORT_TRY(const double none, least(group, own ? 0 : 1));
  return none == 0;
}

Result<double> of_leader(ProcessGroup& group, double value) {
  RETORT_RETURN_IF_ERROR(group.broadcast(bytes_of(value)));
  return value;
}

Result<std::string> of_leader(ProcessGroup& group, const std::string& text) {
  uint64_t size = text.size();
  RETORT_RETURN_IF_ERROR(group.broadcast(bytes_of(size)));
  std::string out = text;
  out.resize(size);
  RETORT_RETURN_IF_ERROR(group.broadcast(std::as_writable_bytes(std::span<char>(out))));
  return out;
}

Status agree(ProcessGroup& group, const Status& own) {
  if (group.alone()) return own;
  const double mine = own.ok() ? 0 : 1 + int(own.error().code);
  std::vector<double> all(size_t(group.size()));
  if (const Status lost = group.all_gather(std::as_bytes(std::span<const double>(&mine, 1)), std::as_writable_bytes(std::span<double>(all))); !lost.ok()) {
    return own.ok() ? lost : own;
  }
  const auto first = std::find_if(all.begin(), all.end(), [](double code) { return code > 0; });
  if (first == all.end()) return {};
  if (first - all.begin() == group.rank()) return own;
  return Error{ErrorCode(int(*first) - 1), ""};
}

Error common(const ProcessGroup& group, Error error) {
  if (!group.leads()) error.message.clear();
  return error;
}

Status led(ProcessGroup& group, const std::function<Status(const Together& ask)>& lead, const Together& together) {
  constexpr int64_t kDone = -1, kFailed = -2;
  int64_t command = 0;
  if (group.leads()) {
    const Status done = lead([&](int64_t i) -> Status {
      command = i;
      RETORT_RETURN_IF_ERROR(group.broadcast(bytes_of(command)));
      return together(i);
    });
    command = done.ok() ? kDone : kFailed - int64_t(done.error().code);
    const Status said = group.broadcast(bytes_of(command));
    return done.ok() ? said : done;
  }
  for (;;) {
    RETORT_RETURN_IF_ERROR(group.broadcast(bytes_of(command)));
    if (command == kDone) return {};
    if (command <= kFailed) return Error{ErrorCode(kFailed - command), ""};
    RETORT_RETURN_IF_ERROR(together(command));
  }
}

}  // namespace retort::train
