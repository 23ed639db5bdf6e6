// Ranks as threads of one process, over real sockets.
#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

#include "train/socket_group.h"

namespace retort::train {
namespace {

class Dictionary {
 public:
  MeetingPlace place() {
    return {[this](const std::string& key, const std::string& value) -> Status {
              const std::lock_guard lock(mutex_);
              values_[key] = value;
              return {};
            },
            [this](const std::string& key) -> Result<std::string> {
              const std::lock_guard lock(mutex_);
              return values_.at(key);
            },
            [this](const std::string& key) -> Result<bool> {
              const std::lock_guard lock(mutex_);
              return values_.count(key) > 0;
            },
            [this](const std::string& key) -> Result<bool> {
              const std::lock_guard lock(mutex_);
              return values_.emplace(key, "").second;
            }};
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::string> values_;
};

// body(group) on every rank of a group of `size`.
template <class Body>
void on_ranks(int size, const Body& body) {
  Dictionary dictionary;
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      auto group = connect_group({r, size, size}, dictionary.place());
      ASSERT_TRUE(group.ok()) << group.error().message;
      body(**group);
    });
  }
  for (auto& thread : threads) thread.join();
}

float number(int rank, size_t i) { return float(rank + 1) * 0.5f + float(i % 251); }

TEST(ProcessGroup, CollectivesAreTheirDefinitions) {
  for (const int size : {2, 3, 4}) {
    on_ranks(size, [&](ProcessGroup& group) {
      for (const size_t n : {size_t(1), size_t(777), size_t(300001)}) {   // the last is more than a wire holds
        std::vector<float> part(n), whole(n * size_t(size));
        for (size_t i = 0; i < n; ++i) part[i] = number(group.rank(), i);
        ASSERT_TRUE(group.all_gather(std::as_bytes(std::span<const float>(part)), std::as_writable_bytes(std::span<float>(whole))).ok());
        for (size_t i = 0; i < whole.size(); ++i) ASSERT_EQ(whole[i], number(int(i / n), i % n));
        for (size_t i = 0; i < whole.size(); ++i) whole[i] = number(group.rank(), i);
        ASSERT_TRUE(group.reduce_scatter(whole, part).ok());
        for (size_t i = 0; i < n; ++i) {
          float expected = 0;
          for (int r = 0; r < size; ++r) expected += number(r, size_t(group.rank()) * n + i);
          ASSERT_EQ(part[i], expected);   // halves: exact in any order
        }
      }
      std::vector<double> values = {1.0 + group.rank(), 10};
      ASSERT_TRUE(sum(group, values).ok());
      EXPECT_EQ(values[0], size * (size + 1) / 2);
      EXPECT_EQ(values[1], 10 * size);
      const auto text = of_leader(group, group.leads() ? std::string("the leader's") : std::string("mine"));
      ASSERT_TRUE(text.ok());
      EXPECT_EQ(*text, "the leader's");
      const auto value = of_leader(group, double(group.rank()) + 7);
      ASSERT_TRUE(value.ok());
      EXPECT_EQ(*value, 7);
      const auto smallest = least(group, 3.0 - group.rank());
      ASSERT_TRUE(smallest.ok());
      EXPECT_EQ(*smallest, 4 - size);
      const auto last = anybody(group, group.rank() == size - 1), none = anybody(group, false);
      ASSERT_TRUE(last.ok() && none.ok());
      EXPECT_TRUE(*last && !*none);
    });
  }
}

TEST(ProcessGroup, AnErrorIsEverybodysAndSaidOnce) {
  on_ranks(3, [](ProcessGroup& group) {
    EXPECT_TRUE(agree(group, {}).ok());
    const Status status = agree(group, group.rank() > 0 ? Status(invalid("bad in ", group.rank())) : Status());
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, ErrorCode::kInvalidInput);
    EXPECT_EQ(status.error().message, group.rank() == 1 ? "bad in 1" : "");
  });
}

TEST(ProcessGroup, RankZeroLeads) {
  on_ranks(3, [](ProcessGroup& group) {
    std::vector<int64_t> asked;
    const auto together = [&](int64_t i) -> Status {
      asked.push_back(i);
      return {};
    };
    const auto lead = [](bool fails) {
      return [fails](const Together& ask) -> Status {
        for (const int64_t i : {5, 0, 2}) RETORT_RETURN_IF_ERROR(ask(i));
        return fails ? Status(io_error("full")) : Status();
      };
    };
    EXPECT_TRUE(led(group, lead(false), together).ok());
    EXPECT_EQ(asked, (std::vector<int64_t>{5, 0, 2}));
    const Status failed = led(group, lead(true), together);
    ASSERT_FALSE(failed.ok());
    EXPECT_EQ(failed.error().code, ErrorCode::kIo);
    EXPECT_EQ(failed.error().message, group.leads() ? "full" : "");
  });
}

TEST(ProcessGroup, ARankThatEndsIsMissed) {
  on_ranks(3, [](ProcessGroup& group) {
    if (group.rank() == 1) return;   // its connections close
    double value = 1;
    const Status status = sum(group, {&value, 1});
    ASSERT_FALSE(status.ok());
    EXPECT_EQ(status.error().code, ErrorCode::kIo);
    EXPECT_NE(status.error().message.find("lost rank"), std::string::npos) << status.error().message;
  });
}

// Everybody leaves in time, and one says who was missing.
TEST(ProcessGroup, ARankThatNeverComesIsNamedOnce) {
  using namespace std::chrono_literals;
  for (const std::vector<int>& absent : {std::vector<int>{1}, {3}, {1, 2}}) {
    Dictionary dictionary;
    std::vector<std::thread> threads;
    std::mutex mutex;
    std::string said, told;
    const auto begin = std::chrono::steady_clock::now();
    for (int r = 0; r < 4; ++r) {
      if (std::find(absent.begin(), absent.end(), r) != absent.end()) continue;
      threads.emplace_back([&, r] {
        std::this_thread::sleep_for(r * 50ms);
        const auto tell = [&, r](const std::string& line) {
          const std::lock_guard lock(mutex);
          told += cat(r, ": ", line, "\n");
        };
        const auto group = connect_group({r, 4, 4, "127.0.0.1", 2000ms, 500ms, tell}, dictionary.place());
        ASSERT_FALSE(group.ok());
        EXPECT_EQ(group.error().code, ErrorCode::kIo);
        const std::lock_guard lock(mutex);
        said += group.error().message;
      });
    }
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(said, cat("ranks: ", rank_names(absent), " of 4 never came within 2 s (RETORT_RANKS_TIMEOUT); the others leave"));
    EXPECT_EQ(told.find(cat("0: waiting for ", rank_names(absent), " of 4, ")), 0u) << told;
    EXPECT_EQ(told.find("3: "), std::string::npos) << "the lowest rank speaks for all: " << told;
    EXPECT_LT(std::chrono::steady_clock::now() - begin, 20s) << "two seconds, on a busy machine more";
  }
}

// One that is there in time is waited for; one that leaves its address and ends is an error of those that call it.
TEST(ProcessGroup, ARankThatEndsWhileTheyMeetIsMissed) {
  using namespace std::chrono_literals;
  Dictionary dictionary;
  ASSERT_TRUE(dictionary.place().set("rank1", "127.0.0.1 1").ok());   // nobody listens there
  std::vector<std::thread> threads;
  std::mutex mutex;
  std::string said;
  for (const int r : {0, 2, 3}) {
    threads.emplace_back([&, r] {
      std::this_thread::sleep_for(r * 100ms);
      const auto group = connect_group({r, 4, 4, "127.0.0.1", 60s}, dictionary.place());
      ASSERT_FALSE(group.ok());
      const std::lock_guard lock(mutex);
      said += group.error().message;
    });
  }
  const auto begin = std::chrono::steady_clock::now();
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(said.find("ranks: cannot reach rank 1 at 127.0.0.1 1 from rank "), 0u) << said;
  EXPECT_EQ(said.find("ranks: ", 1), std::string::npos) << "said once: " << said;
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 30s);
}

TEST(ProcessGroup, RanksWhoseWaysPartedSaySo) {
  on_ranks(2, [](ProcessGroup& group) {
    std::vector<std::byte> bytes(group.leads() ? 8 : 12);
    const Status status = group.leads() ? group.send(1, bytes) : group.receive(0, bytes);
    if (!group.leads()) {
      EXPECT_EQ(status.error().code, ErrorCode::kInternal);
    }
  });
}

}  // namespace
}  // namespace retort::train
