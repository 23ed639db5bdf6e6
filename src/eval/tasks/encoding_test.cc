#include "eval/tasks/encoding.h"

#include <gtest/gtest.h>

#include "support/tiny_model.h"

namespace retort::harness {
namespace {

// A token a byte; "~" is EOS, and with `bos` "^" is BOS.
RequestEncoder encoder(EncodingOptions options, bool bos = false) {
  const std::string config = bos ? R"({"eos_token": "~", "bos_token": "^"})" : R"({"eos_token": "~"})";
  return RequestEncoder(*Tokenizer::from_json(test::byte_tokenizer_json(), config), options);
}

std::string text(const std::vector<int>& ids) { return {ids.begin(), ids.end()}; }

// "context|continuation" of every part.
std::vector<std::string> parts(const RequestEncoder& encoder, const Request& request, Kind kind = Kind::kChoices) {
  std::vector<std::string> out;
  const auto encoded = encoder.encode(request, kind, "t");
  if (!encoded.ok()) return {encoded.error().message};
  for (const auto& part : *encoded) out.push_back(text(part.context) + "|" + text(part.ids));
  return out;
}
using Parts = std::vector<std::string>;

TEST(Encoding, SpacesMoveToTheContinuation) {
  EXPECT_EQ(parts(encoder({}), {"a b", " c"}), Parts{"a b| c"});
  EXPECT_EQ(parts(encoder({}), {"a \n", "c"}), Parts{"a| \nc"});
}

TEST(Encoding, AnEmptyContextIsBosOrElseEos) {
  EXPECT_EQ(parts(encoder({}), {"", " c"}), Parts{"~| c"});
  EXPECT_EQ(parts(encoder({}, true), {"", " c"}), Parts{"^| c"});
  EXPECT_EQ(parts(encoder({}), {"", "~c"}), Parts{"~|c"});  // already there
}

TEST(Encoding, BosIsWhatWasAskedFor) {
  EXPECT_EQ(parts(encoder({AddBos::kAuto}, true), {"a", " c"}), Parts{"a| c"});  // this tokenizer adds none
  EXPECT_EQ(parts(encoder({AddBos::kYes}, true), {"a", " c"}), Parts{"^a| c"});
  EXPECT_EQ(parts(encoder({AddBos::kYes}, true), {"^a", " c"}), Parts{"^a| c"});
  EXPECT_EQ(parts(encoder({AddBos::kYes}), {"a", " c"}), Parts{"a| c"});         // it has none
}

TEST(Encoding, TooLongLosesItsBeginning) {
  EXPECT_EQ(parts(encoder({AddBos::kAuto, 4}), {"abcdef", "xyz"}), Parts{"ef|xyz"});  // four are read, the fifth is scored
  EXPECT_EQ(parts(encoder({AddBos::kAuto, 4}), {"ab", "xyz"}), Parts{"ab|xyz"});
  EXPECT_EQ(parts(encoder({AddBos::kAuto, 4}), {"ab", "wxyz"}), Parts{"b|wxyz"});
  EXPECT_EQ(parts(encoder({AddBos::kAuto, 4}), {"ab", "vwxyz"}), Parts{"t: a continuation of 5 tokens; the model sees 4"});
  EXPECT_EQ(parts(encoder({}), {" ", ""}), Parts{"t: nothing is left to score after the tokenizer"});
}

// The harness's get_rolling_token_windows(max_seq_len=4, context_len=1), made disjoint.
TEST(Encoding, RollingWindowsScoreEveryTokenOnce) {
  const auto rolling = [](const char* page) { return parts(encoder({AddBos::kAuto, 4}), {"", page}, Kind::kRolling); };
  EXPECT_EQ(rolling("abc"), Parts{"~|abc"});
  EXPECT_EQ(rolling("abcd"), Parts{"~|abcd"});
  EXPECT_EQ(rolling("abcdefghij"), (Parts{"~|abcd", "d|efgh", "fgh|ij"}));
  EXPECT_EQ(rolling(""), Parts{});
}

}  // namespace
}  // namespace retort::harness
