// retort layout on tiny random models, through the program's own frame.
#include <gtest/gtest.h>

#include "run_cli.h"
#include "support/tiny_model.h"
#include "test_files.h"

namespace retort::cli {
namespace {

class LayoutCommand : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(test::write_tiny_model(teacher_).ok());
    ModelConfig config = test::tiny_config();
    config.plan.assign(3, LayerPlan{{Part{"gla", {0, 1}, {4, 1}, nlohmann::json::object()}}});
    ASSERT_TRUE(validate_plan(config).ok());
    ASSERT_TRUE(test::write_random_model(student_, config).ok());
    std::string text;
    for (int i = 0; i < 8; ++i) text += "Some words that follow each other. ";
    test::write_file(text_, text);
  }
  Outcome layout(std::vector<std::string> more) {
    std::vector<std::string> arguments{"layout", student_, "--against", teacher_, "--text", text_, "--limit-tokens", "96", "-c", "48"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  }
  test::TempFolder folder_;
  const std::string teacher_ = folder_ / "teacher", student_ = folder_ / "student", text_ = folder_ / "a.txt", out_ = folder_ / "layout.json";
};

TEST_F(LayoutCommand, KeepsTheBestOfTheRanking) {
  for (const char* by : {"kl", "error"}) {
    for (const char* unit : {"layers", "heads"}) {
      const auto outcome = layout({"--rank", by, "--unit", unit, "--keep", "2", "--out", out_, "--json"});
      ASSERT_EQ(outcome.code, 0) << outcome.err;
      const auto document = outcome.json();
      const auto& ranking = document["ranking"];
      ASSERT_EQ(ranking.size(), std::string(unit) == "heads" ? 6u : 3u);
      for (size_t i = 1; i < ranking.size(); ++i) EXPECT_GE(ranking[i - 1]["gain"].get<double>(), ranking[i]["gain"].get<double>());
      EXPECT_EQ(document["keep"], (nlohmann::json{ranking[0]["unit"], ranking[1]["unit"]}));
      for (const char* key : {"student", "layout", "interleaved"}) EXPECT_GT(document["kl"][key].get<double>(), 0) << key;
      EXPECT_EQ(nlohmann::json::parse(test::read_file(out_)), document);
    }
  }
}

TEST_F(LayoutCommand, BadInputIsOneLineAndExitCodeTwo) {
  for (const auto& more : std::vector<std::vector<std::string>>{{}, {"--keep", "3"}, {"--keep", "0"}, {"--keep", "1", "--rank", "size"},
                                                                {"--keep", "1", "--out", folder_ / "no/such/folder/a.json"}}) {
    const auto outcome = layout(more);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_NE(outcome.err.find("retort: error: "), std::string::npos) << outcome.err;
  }
  EXPECT_EQ(run({"layout", teacher_, "--against", teacher_, "--text", text_, "--keep", "1"}).code, 2);
  EXPECT_EQ(run({"layout", student_, "--against", student_, "--text", text_, "--keep", "1"}).code, 2);
  EXPECT_EQ(run({"layout", student_, "--against", teacher_, "--text", folder_ / "absent", "--keep", "1"}).code, 2);
  for (const char* content : {"{}", "[]", R"({"keep": []})", R"({"keep": [7]})", "nonsense"}) {
    test::write_file(out_, content);
    const auto outcome = run({"distill", folder_ / "r.yaml", "--layout", out_});
    EXPECT_EQ(outcome.code, 2);
    EXPECT_NE(outcome.err.find("layout.json"), std::string::npos) << outcome.err;
  }
}

// The state's size and the distance to a teacher are two questions: no flag of the one is left unheard by the other.
TEST_F(LayoutCommand, InspectAnswersOneQuestionAtATime) {
  const auto refused = [&](std::vector<std::string> flags) {
    flags.insert(flags.begin(), {"inspect", student_});
    const auto outcome = run(flags);
    EXPECT_EQ(outcome.code, 2);
    EXPECT_EQ(outcome.out, "");
    return outcome.err;
  };
  EXPECT_EQ(refused({"--against", teacher_, "--contexts", "64"}),
            "retort: error: inspect: --contexts is of the state's size, which --against does not show; ask for one at a time\n");
  EXPECT_EQ(refused({"--limit-tokens", "9"}), "retort: error: inspect: --limit-tokens goes with --against TEACHER\n");
  const auto sizes = run({"inspect", student_, "--contexts", "64,128", "--json"});
  ASSERT_EQ(sizes.code, 0) << sizes.err;
  EXPECT_EQ(sizes.json()["state"]["contexts"].size(), 2u) << sizes.out;
}

}  // namespace
}  // namespace retort::cli
