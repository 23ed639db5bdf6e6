// generate with a draft, on tiny models: the same text, its statistics, and the drafts that are refused.
#include <algorithm>

#include "run_cli.h"
#include "support/tiny_model.h"
#include "test_files.h"

namespace retort::cli {
namespace {

class Speculating : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(test::write_tiny_model(model_).ok());
    ASSERT_TRUE(test::write_tiny_model(draft_, 2).ok());
  }
  Outcome generate(std::vector<std::string> more) {
    std::vector<std::string> arguments = {"generate", model_, "-p", "one two one two one", "-n", "40", "--seed", "1", "--threads", "1"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(std::move(arguments));
  }
  void refused(const Outcome& outcome, const std::string& what) {
    EXPECT_EQ(outcome.code, 2);
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(outcome.err.find("retort: error: "), 0u) << outcome.err;
    EXPECT_NE(outcome.err.find(what), std::string::npos) << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
  }

  test::TempFolder folder_;
  const std::string model_ = folder_ / "model", draft_ = folder_ / "draft";
};

TEST_F(Speculating, GreedyTextStaysAndTheStatisticsAddUp) {
  const auto plain = generate({"--temp", "0", "--json"});
  ASSERT_EQ(plain.code, 0) << plain.err;
  EXPECT_FALSE(plain.json().contains("speculation"));
  for (const auto& flags : std::vector<std::vector<std::string>>{
           {"--spec-type", "ngram"}, {"-md", draft_}, {"-md", model_, "--spec-draft-n-max", "7"},
           {"-md", draft_, "--spec-type", "draft"}}) {
    std::vector<std::string> arguments = {"--temp", "0", "--json"};
    arguments.insert(arguments.end(), flags.begin(), flags.end());
    const auto outcome = generate(arguments);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.json()["tokens"], plain.json()["tokens"]) << flags[0] << ' ' << flags[1];
    const auto s = outcome.json()["speculation"];
    EXPECT_EQ(s["tokens"], 40);
    EXPECT_EQ(s["steps"].get<int>() + s["accepted"].get<int>(), 40);
    EXPECT_GE(s["guessed"], s["accepted"]);
    if (flags[1] == model_) EXPECT_GT(s["tokens_per_step"], 4.0);
  }
  EXPECT_EQ(generate({"--temp", "0", "--spec-type", "none", "--json"}).json()["tokens"], plain.json()["tokens"]);
  EXPECT_NE(generate({"--temp", "0", "--spec-type", "ngram"}).err.find("tokens per step"), std::string::npos);
}

TEST_F(Speculating, WhatCannotDraftIsRefused) {
  refused(generate({"-md", folder_ / "nowhere"}), "nowhere");
  refused(generate({"--spec-type", "draft"}), "-md");
  refused(generate({"--spec-type", "ngram", "-md", draft_}), "takes no draft model");
  refused(generate({"--spec-type", "oracle"}), "oracle");
  for (const char* count : {"0", "-1", "33", "99999999999999999999", "x"}) {
    refused(generate({"--spec-type", "ngram", "--spec-draft-n-max", count}), count);
  }
  std::string tokenizer = test::read_file(draft_ + "/tokenizer.json");
  const size_t at = tokenizer.find("\"Q\"");
  ASSERT_NE(at, std::string::npos);
  test::write_file(draft_ + "/tokenizer.json", tokenizer.replace(at, 3, "\"QQ\""));
  refused(generate({"-md", draft_}), "the draft's token 81 is 'QQ', the model's 'Q'");
  HfFolder other;
  other.config = test::tiny_config();
  other.config.vocab_size = 300;
  other.values = [](const TensorSpec& spec) -> Result<std::vector<float>> { return std::vector<float>(size_t(spec.count()), 0.1f); };
  other.extra_files["tokenizer.json"] = test::byte_tokenizer_json();
  ASSERT_TRUE(write_hf_folder(folder_ / "wide", other).ok());
  refused(generate({"-md", folder_ / "wide"}), "the draft has a vocabulary of 300, the model one of 260");
}

}  // namespace
}  // namespace retort::cli
