// retort probe on a tiny random model, through the program's own frame.
#include <gtest/gtest.h>

#include "run_cli.h"
#include "support/tiny_model.h"
#include "test_files.h"

namespace retort::cli {
namespace {

class ProbeCommand : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(test::write_tiny_model(model_).ok());
    test::write_file(model_ + "/tokenizer_config.json", R"({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "~"})");
    std::string text;
    for (int i = 0; i < 40; ++i) text += "Some words that follow each other. ";
    test::write_file(text_, text);
  }
  Outcome probe(std::vector<std::string> more) {
    std::vector<std::string> arguments{"probe", model_};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  }
  test::TempFolder folder_;
  const std::string model_ = folder_ / "teacher", text_ = folder_ / "a.txt";
};

TEST_F(ProbeCommand, ModelsStandSideBySideOnTheSameExamples) {
  const auto outcome = probe({model_, "--tasks", "mqar,copy", "--lengths", "48,64", "--pairs", "2,4", "--examples", "2", "--text", text_,
                              "--windows", "2", "--json", "--html", folder_ / "a.html"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto document = outcome.json();
  ASSERT_EQ(document["probes"].size(), 6u);  // 2 x 2 and 2
  for (const auto& cell : document["probes"]) {
    ASSERT_EQ(cell["scores"].size(), 2u);
    EXPECT_EQ(cell["scores"][0]["log_likelihood"], cell["scores"][1]["log_likelihood"]) << "the same model on the same examples";
    EXPECT_TRUE(cell["scores"][0]["accuracy"]["stderr"].is_number());
    EXPECT_LE(cell["longest"], cell["length"]);
  }
  ASSERT_EQ(document["positions"].size(), 2u);
  EXPECT_EQ(document["positions"][0]["bins"].back()["last"], 63);
  const std::string page = test::read_file(folder_ / "a.html");
  EXPECT_NE(page.find("<svg"), std::string::npos);
  for (const char* word : {"<script", "src=", "href=", "url(", "@import"}) EXPECT_EQ(page.find(word), std::string::npos) << word;
}

TEST_F(ProbeCommand, TheSeedDecides) {
  const auto probes = [&](const char* seed) {
    return probe({"--tasks", "mqar", "--lengths", "64", "--pairs", "4", "--examples", "2", "--seed", seed, "--json"}).json()["probes"];
  };
  EXPECT_EQ(probes("7"), probes("7"));
  EXPECT_NE(probes("7"), probes("8"));
}

TEST_F(ProbeCommand, CellsThatCannotBeAreLeftOutAloud) {
  const auto outcome = probe({"--tasks", "mqar", "--lengths", "24,64", "--pairs", "2,8", "--examples", "1", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.json()["probes"].size(), 3u);
  EXPECT_NE(outcome.err.find("mqar with 8 pairs takes at least"), std::string::npos) << outcome.err;
}

TEST_F(ProbeCommand, ATaskThatDoesNotFitLeavesTheOthers) {
  const auto outcome = probe({"--tasks", "mqar,needle", "--lengths", "64,64", "--pairs", "4,4", "--examples", "1", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.json()["probes"].size(), 1u) << "once";
  EXPECT_NE(outcome.err.find("needle with 4 pairs takes at least"), std::string::npos) << outcome.err;
}

TEST_F(ProbeCommand, BadInputIsOneLineAndExitCodeTwo) {
  for (const auto& more : std::vector<std::vector<std::string>>{{"--tasks", "nedle"},
                                                                {"--tasks", "passkey", "--lengths", "32"},
                                                                {"--tasks", "mqar", "--lengths", "32", "--pairs", "4000"},
                                                                {"--tasks", "mqar", "--lengths", "-3"},
                                                                {"--tasks", "mqar", "--lengths", "64", "--text", folder_ / "absent"},
                                                                {"--tasks", "mqar", "--lengths", "1000000", "--pairs", "2", "--text", text_},
                                                                {"--tasks", "mqar", "--html", folder_ / "no/such/folder/a.html"},
                                                                {folder_ / "absent"}}) {
    const auto outcome = probe(more);
    EXPECT_EQ(outcome.code, 2) << more.back() << outcome.err;
    EXPECT_EQ(outcome.out, "") << more.back();
    EXPECT_NE(outcome.err.find("retort: error: "), std::string::npos) << more.back() << outcome.err;
  }
}

}  // namespace
}  // namespace retort::cli
