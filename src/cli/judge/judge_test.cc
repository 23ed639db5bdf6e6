// retort eval --tasks mt_bench,alpaca_eval on a tiny random model, through the program's own frame.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <sstream>

#include "run_cli.h"
#include "support/tiny_model.h"
#include "test_files.h"

namespace retort::cli {
namespace {

using nlohmann::json;

class JudgeCommand : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(test::write_tiny_model(model_).ok());
    test::write_file(model_ + "/tokenizer_config.json",
                     R"({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "~",
                         "chat_template": "{% for m in messages %}{{ m.content }};{% endfor %}"})");
    std::filesystem::create_directory(folder_ / "mt_bench");
    std::string questions;
    for (int q = 0; q < 5; ++q) {
      questions += json{{"question_id", 90 - q}, {"category", q % 2 ? "math" : "writing"}, {"turns", {std::string(size_t(8 + 9 * q), 'a'), "and?"}}}.dump() + "\n";
    }
    test::write_file(folder_ / "mt_bench/question.jsonl", questions);
    test::write_file(folder_ / "alpaca_eval.json", R"([{"instruction": "one", "dataset": "d"}, {"instruction": "two", "dataset": "d"}])");
  }
  Outcome eval(std::vector<std::string> more) {
    std::vector<std::string> arguments{"eval", model_, "-n", "6"};
    for (const auto& [flag, value] : {std::pair{"--data", folder_.str()}, {"--out", folder_ / "out"}, {"--model-id", std::string("m")}}) {
      if (std::find(more.begin(), more.end(), flag) == more.end()) arguments.insert(arguments.end(), {flag, value});
    }
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  }
  std::vector<json> lines(const std::string& path) {
    std::vector<json> out;
    std::istringstream text(test::read_file(path));
    for (std::string line; std::getline(text, line);) out.push_back(json::parse(line));
    return out;
  }
  // Without what says when it was made.
  static std::vector<json> timeless(std::vector<json> answers) {
    for (json& answer : answers) answer.erase("tstamp");
    return answers;
  }
  test::TempFolder folder_;
  const std::string model_ = folder_ / "model", answers_ = folder_ / "out/mt_bench/model_answer/m.jsonl";
};

TEST_F(JudgeCommand, FilesStandWhereTheJudgesLook) {
  const auto outcome = eval({"--tasks", "mt_bench,alpaca_eval", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto answers = lines(answers_);
  ASSERT_EQ(answers.size(), 5u);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(answers[i]["question_id"], 90 - int(i)) << "in the order of the questions";
    EXPECT_EQ(answers[i]["choices"][0]["turns"].size(), 2u);
  }
  const json outputs = json::parse(test::read_file(folder_ / "out/m/model_outputs.json"));
  ASSERT_EQ(outputs.size(), 2u);
  EXPECT_EQ(outputs[1]["instruction"], "two");
  EXPECT_EQ(outputs[1]["generator"], "m");
  EXPECT_EQ(outcome.json()["answers"][0]["answers"], 5);
  EXPECT_FALSE(std::filesystem::exists(answers_ + ".partial"));
}

TEST_F(JudgeCommand, AnAnswerDoesNotDependOnHowManyAreMadeAtATime) {
  ASSERT_EQ(eval({"--tasks", "mt_bench", "--parallel", "1"}).code, 0);
  const auto alone = timeless(lines(answers_));
  ASSERT_EQ(eval({"--tasks", "mt_bench", "--parallel", "4"}).code, 0);
  EXPECT_EQ(timeless(lines(answers_)), alone);
  ASSERT_EQ(eval({"--tasks", "mt_bench", "--seed", "5"}).code, 0);
  EXPECT_NE(timeless(lines(answers_)), alone);
}

TEST_F(JudgeCommand, AnInterruptedRunGoesOn) {
  ASSERT_EQ(eval({"--tasks", "mt_bench"}).code, 0);
  const auto whole = timeless(lines(answers_));
  // Cut off: everything was answered, but the file could not appear; then all but two answers are lost.
  std::filesystem::remove(answers_);
  std::filesystem::create_directories(answers_ + "/in the way");
  EXPECT_EQ(eval({"--tasks", "mt_bench"}).code, 2);
  std::filesystem::remove_all(answers_);
  std::istringstream partial(test::read_file(answers_ + ".partial"));
  std::string kept;
  for (int line = 0; line < 3; ++line) {
    std::string text;
    std::getline(partial, text);
    kept += text + "\n";
  }
  test::write_file(answers_ + ".partial", kept + "{\"question\": 3, \"ans");
  EXPECT_EQ(eval({"--tasks", "mt_bench", "--seed", "9"}).code, 2) << "not with other settings";
  const auto outcome = eval({"--tasks", "mt_bench", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.json()["answers"][0]["resumed"], 2);
  EXPECT_EQ(timeless(lines(answers_)), whole);
}

TEST_F(JudgeCommand, BadInputIsOneLineAndExitCodeTwo) {
  for (const auto& more : std::vector<std::vector<std::string>>{{"--tasks", "mt_bench,piqa"},
                                                                {"--tasks", "mt_bench", "--model-id", "a/b"},
                                                                {"--tasks", "mt_bench", "--data", folder_ / "absent"},
                                                                {"--tasks", "mt_bench", "--temp", "-1"},
                                                                {"--tasks", "mt_bench", "--compare", model_},
                                                                {"--tasks", "mt_bench", "--html", folder_ / "a.html"},
                                                                {"--tasks", "mt_bench", "--num-fewshot", "2"},
                                                                {"--tasks", "mt_bench", "--out", ""}}) {
    const auto outcome = eval(more);
    EXPECT_EQ(outcome.code, 2) << more.back() << outcome.err;
    EXPECT_EQ(outcome.out, "") << more.back();
    EXPECT_NE(outcome.err.find("retort: error: "), std::string::npos) << more.back() << outcome.err;
  }
}

}  // namespace
}  // namespace retort::cli
