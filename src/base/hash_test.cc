#include "base/hash.h"

#include <gtest/gtest.h>

namespace retort {
namespace {

// The reference values of FNV-1a, 64 bits.
static_assert(fnv1a("") == 0xcbf29ce484222325ull);
static_assert(fnv1a("a") == 0xaf63dc4c8601ec8cull);
static_assert(fnv1a("foobar") == 0x85944171f73967e8ull);

TEST(Hash, PiecesAreTheWhole) {
  EXPECT_EQ(fnv1a("bar", fnv1a("foo")), fnv1a("foobar"));
  EXPECT_NE(fnv1a_item("c", fnv1a_item("ab", kFnvStart)), fnv1a_item("bc", fnv1a_item("a", kFnvStart)));
}

TEST(Hash, BytesAbove127AreUnsigned) { EXPECT_EQ(fnv1a("\xff"), fnv1a_unit(0xff, kFnvStart)); }

TEST(Hash, HexHasSixteenDigits) {
  EXPECT_EQ(hex(0), "0000000000000000");
  EXPECT_EQ(hex(fnv1a("a")), "af63dc4c8601ec8c");
}

}  // namespace
}  // namespace retort
