// retort eval on a tiny random model, through the program's own frame.
#include <gtest/gtest.h>

#include <filesystem>

#include "run_cli.h"
#include "support/tiny_model.h"
#include "test_files.h"

namespace retort::cli {
namespace {

class EvalCommand : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(test::write_tiny_model(model_).ok());
    test::write_file(model_ + "/tokenizer_config.json", R"({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "~"})");
    test::write_file(folder_ / "piqa_validation.jsonl",
                     "{\"goal\":\"to be\",\"sol1\":\"or\",\"sol2\":\"not\",\"label\":0}\n{\"goal\":\"that\",\"sol1\":\"is\",\"sol2\":\"it\",\"label\":1}\n");
    test::write_file(folder_ / "wikitext_test.jsonl", "{\"page\":\"some words of a page\"}\n");
    test::write_file(folder_ / "winogrande_xl_validation.jsonl", "{\"sentence\":\"a _ b\",\"option1\":\"x\",\"option2\":\"y\",\"answer\":\"2\"}\n{\"sentence\":\n");
  }
  Outcome eval(std::vector<std::string> more) {
    std::vector<std::string> arguments{"eval", model_, "--data", folder_.str()};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  }
  test::TempFolder folder_;
  const std::string model_ = folder_ / "teacher";
};

TEST_F(EvalCommand, ResultsAreInTheHarnessesSchema) {
  const auto outcome = eval({"--tasks", "piqa,wikitext", "--json", "--out", folder_ / "out", "--log-samples"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto document = outcome.json();
  EXPECT_TRUE(document["results"]["piqa"]["acc,none"].is_number());
  EXPECT_TRUE(document["results"]["piqa"]["acc_norm_stderr,none"].is_number());
  EXPECT_GT(document["results"]["wikitext"]["word_perplexity,none"].get<double>(), 1.0);
  EXPECT_EQ(document["results"]["wikitext"]["word_perplexity_stderr,none"], "N/A");
  EXPECT_EQ(document["n-samples"]["piqa"]["original"], 2);
  size_t files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_ / "out")) files += entry.is_regular_file();
  EXPECT_EQ(files, 3u);
}

TEST_F(EvalCommand, AModelIsAsGoodAsItself) {
  const auto outcome = eval({"--tasks", "piqa", "--compare", model_, "--json", "--html", folder_ / "a.html"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto rows = outcome.json()["comparison"];
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0]["ratio"]["stderr"], 0.0) << "the same documents: nothing is left to chance";
  EXPECT_EQ(rows[0]["student"], rows[0]["teacher"]);
  const std::string page = test::read_file(folder_ / "a.html");
  EXPECT_NE(page.find("<svg"), std::string::npos);
  for (const char* word : {"<script", "src=", "href=", "url(", "@import"}) EXPECT_EQ(page.find(word), std::string::npos) << word;
}

TEST_F(EvalCommand, TheTableHasARowPerMetric) {
  const auto outcome = eval({"--tasks", "piqa", "--limit", "1"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("|Tasks|Version|Filter|n-shot| Metric |   |Value"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("|piqa |      1|none  |     0|acc     |↑  |"), std::string::npos) << outcome.out;
}

TEST_F(EvalCommand, BadInputIsOneLineAndExitCodeTwo) {
  for (const auto& more : std::vector<std::vector<std::string>>{
           {},
           {"--tasks", "hellaswagg"},
           {"--tasks", "hellaswag"},
           {"--tasks", "winogrande"},
           {"--tasks", "piqa", "--num-fewshot", "1"},
           {"--tasks", "piqa", "--num-fewshot", "3", "--fewshot-split", "validation"},
           {"--tasks", "piqa", "--num-fewshot", "-1"},
           {"--tasks", "piqa", "--limit", "-1"},
           {"--tasks", "piqa", "--add-bos", "maybe"},
           {"--tasks", "piqa", "--log-samples"},
           {"--tasks", "piqa", "--html", folder_ / "a.html"},
           {"--tasks", "piqa,mt_bench"},
           {"--tasks", "piqa", "--max-length", "1"},
           {"--tasks", "piqa", "--compare", folder_ / "absent"}}) {
    const auto outcome = eval(more);
    const std::string what = more.empty() ? "no tasks" : more.back();
    EXPECT_EQ(outcome.code, 2) << what << outcome.err;
    EXPECT_EQ(outcome.out, "") << what;
    EXPECT_EQ(outcome.err.find("retort: error: "), outcome.err.rfind("retort: error: ")) << what;
    EXPECT_NE(outcome.err.find("retort: error: "), std::string::npos) << what << outcome.err;
  }
}

TEST_F(EvalCommand, AnEmptyContextNeedsABeginning) {
  test::write_file(model_ + "/tokenizer_config.json", R"({"tokenizer_class": "PreTrainedTokenizerFast"})");
  const auto outcome = eval({"--tasks", "wikitext"});
  EXPECT_EQ(outcome.code, 2);
  EXPECT_NE(outcome.err.find("wikitext: document 1: the tokenizer has neither a BOS nor an EOS token"), std::string::npos) << outcome.err;
}

TEST_F(EvalCommand, ListNamesEveryTask) {
  const auto outcome = run({"eval", "--tasks", "list", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.json()["tasks"].size(), 16u);
}

}  // namespace
}  // namespace retort::cli
