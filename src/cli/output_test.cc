#include "cli/output.h"

#include <gtest/gtest.h>

namespace retort::cli {

TEST(Table, AlignsNumbersRightAndTextLeft) {
  Table table({"name", "tok/s"});
  table.row({"teacher", "9"});
  table.row({"élan", "1,024"});
  EXPECT_EQ(table.text(), "name     tok/s\n-------  -----\nteacher      9\nélan     1,024\n");
}

TEST(Table, MissingCellsAreBlank) {
  Table table({"a", "b"});
  table.row({"x"});
  EXPECT_EQ(table.text(), "a  b\n-  -\nx\n");
}

}  // namespace retort::cli
