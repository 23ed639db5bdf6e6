// A cache of logits on disk: what was put in comes out, and nothing that a file says is believed.
#include "train/logit_cache.h"

#include <cmath>
#include <cstring>
#include <filesystem>

#include <gtest/gtest.h>

#include "base/half.h"
#include "base/hash.h"
#include "test_files.h"
#include "train/random.h"

namespace retort::train {
namespace {

const nlohmann::json kMadeOf = {{"teacher", "abc"}, {"data", "d1"}, {"seq", 5}};

// Probabilities of `vocab` tokens at every position, of which the k largest are kept.
TopLogits random_logits(const LogitShape& shape, uint64_t seed) {
  Random random{seed};
  TopLogits out;
  for (int t = 0; t < shape.seq; ++t) {
    std::vector<double> p(size_t(shape.vocab_size));
    double sum = 0;
    for (double& x : p) x = std::exp(12.0 * double(random.below(1 << 20)) / (1 << 20)), sum += x;
    std::vector<int32_t> ids(p.size());
    for (size_t i = 0; i < ids.size(); ++i) ids[i] = int32_t(i);
    std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return p[size_t(a)] > p[size_t(b)]; });
    ids.resize(size_t(shape.top_k));
    std::sort(ids.begin(), ids.end());
    double rest = 1;
    for (const int32_t id : ids) {
      out.ids.push_back(id);
      out.log_p.push_back(float(std::log(p[size_t(id)] / sum)));
      rest -= p[size_t(id)] / sum;
    }
    out.rest.push_back(shape.top_k == shape.vocab_size ? 0.0f : float(rest));
  }
  return out;
}

void expect_same(const TopLogits& a, const TopLogits& b) {
  EXPECT_EQ(a.ids, b.ids);
  EXPECT_EQ(a.log_p, b.log_p);
  EXPECT_EQ(a.rest, b.rest);
}

class LogitCacheTest : public ::testing::Test {
 protected:
  std::shared_ptr<LogitCache> open(LogitShape shape = {5, 4, 300}, const nlohmann::json& made_of = kMadeOf) {
    auto cache = LogitCache::open(folder_ / "cache", made_of, shape);
    EXPECT_TRUE(cache.ok()) << cache.error().message;
    return cache.ok() ? *cache : nullptr;
  }
  // A cache of `rows` rows; what its writer trained on.
  std::vector<TopLogits> write(int rows, LogitShape shape = {5, 4, 300}) {
    std::filesystem::remove_all(folder_ / "cache");
    const auto cache = open(shape);
    std::vector<TopLogits> out;
    for (int r = 0; r < rows; ++r) {
      out.push_back(random_logits(shape, uint64_t(r)));
      EXPECT_TRUE(cache->append(uint64_t(r) * 7, out.back()).ok());
    }
    EXPECT_TRUE(cache->flush().ok());
    return out;
  }
  std::string rows() const { return test::read_file(folder_ / "cache/rows.bin"); }
  // A file of one row that says this, checksum and all; its hash is 0.
  void forge(const TopLogits& logits) {
    std::string payload;
    const auto put = [](std::string& out, auto value) { out.append(reinterpret_cast<const char*>(&value), sizeof value); };
    for (const int32_t id : logits.ids) put(payload, uint16_t(id));
    for (const float log_p : logits.log_p) put(payload, float_to_f16(log_p));
    for (const float rest : logits.rest) put(payload, float_to_f16(rest));
    uint64_t sum = kFnvStart;
    size_t i = 0;
    for (; i + 8 <= payload.size(); i += 8) {
      uint64_t word;
      std::memcpy(&word, payload.data() + i, 8);
      sum = fnv1a_unit(word, sum);
    }
    std::string bytes;
    put(bytes, uint64_t{0});
    put(bytes, fnv1a(std::string_view(payload).substr(i), sum));
    put_rows(bytes + payload);
  }
  void put_rows(const std::string& bytes) { test::write_file(folder_ / "cache/rows.bin", bytes); }
  std::string message_of(LogitShape shape, const nlohmann::json& made_of) {
    const auto cache = LogitCache::open(folder_ / "cache", made_of, shape);
    return cache.ok() ? "it opens" : cache.error().message;
  }

  test::TempFolder folder_;
};

TEST_F(LogitCacheTest, WhatIsPutInComesOut) {
  for (const LogitShape shape : {LogitShape{5, 4, 300}, LogitShape{3, 300, 300}, LogitShape{2, 9, 70000}}) {
    const auto trained = write(6, shape);
    EXPECT_EQ(int64_t(rows().size()), 6 * (16 + shape.seq * shape.bytes_per_token()));
    const auto cache = open(shape);
    ASSERT_EQ(cache->rows(), 6);
    for (const int64_t r : {5, 0, 3}) {
      const auto read = cache->read(r, uint64_t(r) * 7);
      ASSERT_TRUE(read.ok()) << read.error().message;
      expect_same(*read, trained[size_t(r)]);
      const TopLogits given = random_logits(shape, uint64_t(r));
      EXPECT_EQ(read->ids, given.ids);
      expect_same(*cache->rounded(given), *read);
      for (size_t t = 0; t < given.rest.size(); ++t) {
        double sum = read->rest[t];
        for (size_t i = t * size_t(shape.top_k); i < (t + 1) * size_t(shape.top_k); ++i) {
          EXPECT_NEAR(read->log_p[i], given.log_p[i], 0.006 + std::fabs(given.log_p[i]) / 1024);
          sum += std::exp(double(read->log_p[i]));
        }
        EXPECT_NEAR(sum, 1, 1e-5);
        EXPECT_NEAR(read->rest[t], given.rest[t], 0.003);
      }
    }
  }
  EXPECT_EQ((LogitShape{512, 32, 49152}.bytes_per_token()), 130);
  EXPECT_EQ((LogitShape{512, 32, 128256}.bytes_per_token()), 194);
}

TEST_F(LogitCacheTest, GoesOnAfterHalfARecord) {
  const auto trained = write(3);
  const std::string whole = rows();
  for (const size_t cut : {size_t(1), whole.size() / 3 - 1}) {
    put_rows(whole.substr(0, whole.size() - cut));
    const auto cache = open();
    ASSERT_EQ(cache->rows(), 2);
    TopLogits again = random_logits({5, 4, 300}, 2);
    ASSERT_TRUE(cache->append(14, again).ok());
    ASSERT_TRUE(cache->flush().ok());
    expect_same(again, trained[2]);
    EXPECT_EQ(rows(), whole);
  }
}

TEST_F(LogitCacheTest, ACacheOfSomethingElseIsRefused) {
  write(2);
  EXPECT_EQ(message_of({5, 4, 300}, kMadeOf), "it opens");
  nlohmann::json other = kMadeOf;
  other["teacher"] = "abd", other["seq"] = 6;
  EXPECT_EQ(message_of({5, 4, 300}, other), cat(folder_ / "cache", ": logits of something else than this stage asks for: seq: 5 -> 6; teacher: \"abc\" -> \"abd\"; "
                                                "name another folder, or remove this one"));
  EXPECT_NE(message_of({5, 301, 300}, kMadeOf).find("top_k is 301; the vocabulary has 300"), std::string::npos);
  for (const char* index : {"", "{", "[]", "{}", R"({"format": "retort-logits"})", R"({"format": "retort-logits", "version": 1, "made_of": 3})",
                            R"({"format": "retort-logits", "version": 2, "made_of": {}})"}) {
    test::write_file(folder_ / "cache/index.json", index);
    const auto message = message_of({5, 4, 300}, kMadeOf);
    EXPECT_NE(message.find("cache/index.json: "), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
  std::filesystem::remove_all(folder_ / "cache");
  std::filesystem::create_directories(folder_ / "cache");
  EXPECT_EQ(open()->rows(), 0) << "an empty folder is as good as none";
  test::write_file(folder_ / "cache/letter.txt", "dear");
  EXPECT_NE(message_of({5, 4, 300}, kMadeOf).find("not empty, and no cache of logits"), std::string::npos);
  std::filesystem::remove_all(folder_ / "cache");
  test::write_file(folder_ / "cache", "dear");
  EXPECT_NE(message_of({5, 4, 300}, kMadeOf).find("a file; a cache of logits is a folder"), std::string::npos);
}

TEST_F(LogitCacheTest, EveryByteIsChecked) {
  const auto trained = write(2);
  const std::string whole = rows();
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string damaged = whole;
    damaged[at] = char(damaged[at] ^ (1 << (at % 8)));
    put_rows(damaged);
    const auto cache = open();
    const int64_t row = int64_t(at / (whole.size() / 2));
    const auto read = cache->read(row, uint64_t(row) * 7);
    ASSERT_FALSE(read.ok()) << at;
    EXPECT_EQ(read.error().code, ErrorCode::kInvalidInput);
    EXPECT_EQ(read.error().message.find('\n'), std::string::npos);
    EXPECT_TRUE(cache->read(1 - row, uint64_t(1 - row) * 7).ok()) << "the other row is as it was";
  }
}

// Somebody who knows the format writes a right checksum over wrong values.
TEST_F(LogitCacheTest, LiesWithAChecksumAreFoundToo) {
  const LogitShape shape{5, 4, 300};
  const auto lie = [&](const std::function<void(TopLogits&)>& change) {
    TopLogits logits = random_logits(shape, 1);
    change(logits);
    std::filesystem::remove_all(folder_ / "cache");
    const auto cache = open(shape);
    TopLogits as_given = logits;
    const auto status = cache->append(0, as_given);
    EXPECT_FALSE(status.ok());
    EXPECT_EQ(cache->rows(), 0) << "it never reaches the file";
    // Somebody else's file may say it all the same.
    TopLogits good = random_logits(shape, 1);
    EXPECT_TRUE(cache->append(0, good).ok());
    EXPECT_TRUE(cache->flush().ok());
    forge(logits);
    const auto again = open(shape);
    EXPECT_EQ(again->rows(), 1);
    const auto read = again->read(0, 0);
    EXPECT_FALSE(read.ok());
    return read.ok() ? std::string() : read.error().message;
  };
  EXPECT_NE(lie([](TopLogits& l) { l.ids[3] = 300; }).find("row 0: the ids of position 0 are not rising ones of the vocabulary"), std::string::npos);
  EXPECT_NE(lie([](TopLogits& l) { l.ids[6] = l.ids[5]; }).find("the ids of position 1"), std::string::npos);
  EXPECT_NE(lie([](TopLogits& l) { l.log_p[9] = std::nanf(""); }).find("log-probability of position 2"), std::string::npos);
  EXPECT_NE(lie([](TopLogits& l) { l.rest[4] = 1; }).find("the probabilities of position 4 sum to"), std::string::npos);
  EXPECT_NE(lie([](TopLogits& l) { l.rest[4] = 0; }).find("the probabilities of position 4 sum to"), std::string::npos);
}

TEST_F(LogitCacheTest, AnotherTextIsFound) {
  write(1);
  const auto read = open()->read(0, 1);
  ASSERT_FALSE(read.ok());
  EXPECT_NE(read.error().message.find("row 0: of another text"), std::string::npos);
}

TEST_F(LogitCacheTest, OneWriterAtATime) {
  write(1);
  const auto first = open(), second = open();
  TopLogits logits = random_logits({5, 4, 300}, 1), same = logits;
  ASSERT_TRUE(first->append(7, logits).ok());
  const auto status = second->append(7, same);
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("another process is writing this cache"), std::string::npos);
  EXPECT_TRUE(second->read(0, 0).ok()) << "readers go on";
}

TEST_F(LogitCacheTest, ARowsHashIsOfItsTokensAndStarts) {
  Batch batch;
  batch.rows = 2, batch.seq = 4;
  batch.tokens = {1, 2, 3, 4, 1, 2, 3, 4}, batch.starts = {0, 4};
  EXPECT_EQ(row_hash(batch, 0), row_hash(batch, 1)) << "wherever it stands";
  batch.starts = {0, 4, 6};
  EXPECT_NE(row_hash(batch, 0), row_hash(batch, 1));
  batch.starts = {0, 4};
  batch.tokens[7] = 5;
  EXPECT_NE(row_hash(batch, 0), row_hash(batch, 1));
}

}  // namespace
}  // namespace retort::train
