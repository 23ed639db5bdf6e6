// generate, chat and perplexity on the real teacher, through the program's own frame. Skipped without the file.
#include <gtest/gtest.h>

#include <filesystem>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/interrupt.h"
#include "cli/main.h"
#include "test_files.h"
#include "run_cli.h"

namespace retort::cli {
namespace {

class RunCommands : public testing::Test {
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(teacher_)) GTEST_SKIP() << teacher_ << " is absent (scripts/teacher.sh fetches it)";
  }
  const std::string teacher_ = test::teacher_path();
  test::TempFolder folder_;
};

TEST_F(RunCommands, TheSeedDecidesTheText) {
  const auto text = [&](const char* seed) {
    return run({"generate", teacher_, "-p", "Once upon a time", "-n", "12", "--seed", seed, "--json"}).json()["text"];
  };
  const auto first = text("7");
  EXPECT_TRUE(first.is_string());
  EXPECT_EQ(first, text("7"));
  EXPECT_NE(first, text("8"));
}

TEST_F(RunCommands, ASavedStateContinuesLikeTheWhole) {
  const std::string state = folder_ / "a.state";
  const auto part = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments{"generate", teacher_, "--temp", "0", "--json"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const auto outcome = run(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.json()["tokens"].get<std::vector<int>>();
  };
  auto whole = part({"-p", "Once upon a time", "-n", "14"});
  auto first = part({"-p", "Once upon a time", "-n", "6", "--state-out", state});
  const auto rest = part({"--state-in", state, "-n", "8"});
  first.insert(first.end(), rest.begin(), rest.end());
  EXPECT_EQ(first, whole);
}

TEST_F(RunCommands, BadInputIsOneLineAndExitCodeTwo) {
  test::write_file(folder_ / "bad.txt", "a\xff" "b and more");
  test::write_file(folder_ / "one.txt", "a");
  test::write_file(folder_ / "ids", "1 2 x");
  test::write_file(folder_ / "state", "RETORTST nonsense");
  for (const auto& arguments : std::vector<std::vector<std::string>>{
           {"perplexity", teacher_, "--text", folder_ / "bad.txt"},
           {"perplexity", teacher_, "--text", folder_ / "one.txt"},
           {"perplexity", teacher_, "--text", folder_ / "absent.txt"},
           {"perplexity", teacher_, "--ids", folder_ / "ids"},
           {"perplexity", teacher_},
           {"generate", teacher_, "-p", "a", "--state-in", folder_ / "state"},
           {"generate", teacher_, "-p", "a", "--weights", "q3"},
           {"generate", teacher_, "-p", "a", "--activations", "f16"},
           {"generate", teacher_, "-p", "a", "--state-out", folder_ / "absent/state", "-n", "1"},
           {"inspect", teacher_, "--against", folder_ / "absent.gguf"},
           {"inspect", teacher_, "--against", teacher_, "--text", folder_ / "bad.txt"},
           {"generate", folder_ / "absent.gguf", "-p", "a"}}) {
    const auto outcome = run(arguments);
    EXPECT_EQ(outcome.code, 2) << arguments[0] << " " << arguments.back() << outcome.err;
    EXPECT_EQ(outcome.out, "") << arguments[0] << " " << arguments.back();
    EXPECT_EQ(outcome.err.find("retort: error: "), outcome.err.rfind("retort: error: "));
    EXPECT_NE(outcome.err.find("retort: error: "), std::string::npos) << outcome.err;
  }
}

TEST_F(RunCommands, TheTeacherAgainstItselfIsNoDistanceAway) {
  const auto outcome = run({"inspect", teacher_, "--against", teacher_, "--limit-tokens", "6", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto document = outcome.json();
  EXPECT_EQ(document["tokens"], 6);
  ASSERT_EQ(document["layers"].size(), 30u);
  for (const auto& layer : document["layers"]) {
    EXPECT_EQ(layer["mixers"], "attention");
    EXPECT_EQ(layer["output_error"], 0.0);
    EXPECT_EQ(layer["matrix_distance"], 0.0);
    EXPECT_GT(layer["matrix_norm"].get<double>(), 1.0);  // the first row is 1 alone
  }
}

TEST_F(RunCommands, PerplexityOfPlainEnglishIsThatOfASmallModel) {
  std::string text;
  for (int i = 0; i < 6; ++i) text += "The sun rises in the east and sets in the west. Water is made of hydrogen and oxygen. ";
  test::write_file(folder_ / "text", text);
  const auto outcome = run({"perplexity", teacher_, "--text", folder_ / "text", "--ctx-size", "32", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const double perplexity = outcome.json()["perplexity"].get<double>();
  EXPECT_GT(perplexity, 1.2);
  EXPECT_LT(perplexity, 40);
}

}  // namespace
}  // namespace retort::cli
