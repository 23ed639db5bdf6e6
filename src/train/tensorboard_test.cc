#include "train/tensorboard.h"

#include <gtest/gtest.h>

#include "test_files.h"

namespace retort::train {
namespace {

TEST(Crc32c, KnownValues) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);        // the check value of CRC-32C
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);  // RFC 3720, B.4
}

TEST(EventWriter, IsCutBackAndGoesOn) {
  test::TempFolder folder;
  const auto path = folder / "events";
  uint64_t good = 0;
  {
    auto writer = EventWriter::open(path, 0);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->scalars(1, 0.5, {{"a", 1}}).ok());
    good = writer->size();
    ASSERT_TRUE(writer->scalars(2, 0.5, {{"a", 2}, {"b", 3}}).ok());
  }
  const auto whole = test::read_file(path);
  ASSERT_GT(whole.size(), good);
  {
    auto writer = EventWriter::open(path, good);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->scalars(2, 0.5, {{"a", 2}, {"b", 3}}).ok());
  }
  EXPECT_EQ(test::read_file(path), whole);
}

}  // namespace
}  // namespace retort::train
