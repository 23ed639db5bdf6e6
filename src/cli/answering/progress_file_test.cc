#include "cli/answering/progress_file.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "test_files.h"

namespace retort::cli {
namespace {

using harness::Json;

TEST(ProgressFile, GoesOnWhereItWasCutOff) {
  test::TempFolder folder;
  const std::string path = folder / "a.partial";
  const Json settings = {{"seed", 1}};
  {
    auto file = ProgressFile::open(path, settings);
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->add(4, {{"x", 1}}).ok());
    ASSERT_TRUE(file->add(2, {{"x", 2}}).ok());
  }
  const std::string whole = test::read_file(path);
  for (size_t bytes = 0; bytes <= whole.size(); ++bytes) {
    test::write_file(path, whole.substr(0, bytes));
    auto file = ProgressFile::open(path, settings);
    ASSERT_TRUE(file.ok()) << bytes;
    const std::string kept = whole.substr(0, bytes);
    const auto lines = size_t(std::count(kept.begin(), kept.end(), '\n'));
    EXPECT_EQ(file->answers().size(), lines > 0 ? lines - 1 : 0) << bytes;
    ASSERT_TRUE(file->add(7, {{"x", 3}}).ok());
    const auto again = ProgressFile::open(path, settings);
    ASSERT_TRUE(again.ok()) << bytes;
    EXPECT_EQ(again->answers().size(), file->answers().size());
    EXPECT_EQ(again->answers().at(7)["x"], 3);
  }
  EXPECT_FALSE(ProgressFile::open(path, {{"seed", 2}}).ok()) << "answers of other settings";
  test::write_file(path, settings.dump() + "\nnonsense\n");
  EXPECT_FALSE(ProgressFile::open(path, settings).ok());
}

}  // namespace
}  // namespace retort::cli
