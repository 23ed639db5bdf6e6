#include "cli/judge/questions.h"

#include <gtest/gtest.h>

namespace retort::cli {
namespace {

using harness::Json;

const JudgeTask& mt_bench() { return *find_judge_task("mt_bench"); }
const JudgeTask& alpaca() { return *find_judge_task("alpaca_eval"); }

JudgeQuestion question(const std::string& category) {
  return (*read_questions(mt_bench(), R"({"question_id": 81, "category": ")" + category + R"(", "turns": ["a", "b"], "reference": []})", "q"))[0];
}

TEST(JudgeQuestions, HaveFastChatsTemperatures) {
  for (const auto& [category, temperature] : std::vector<std::pair<std::string, double>>{
           {"writing", 0.7}, {"roleplay", 0.7}, {"extraction", 0}, {"math", 0}, {"coding", 0}, {"reasoning", 0}, {"stem", 0.1}, {"humanities", 0.1},
           {"another", 0.7}}) {
    EXPECT_EQ(temperature_of(mt_bench(), question(category)), temperature) << category;
  }
}

TEST(JudgeQuestions, AnswersHaveTheKeysThatJudgesRead) {
  const auto asked = question("math");
  const Json answer = answer_json(mt_bench(), asked, {{"one", "two"}, 12.5}, "m");
  EXPECT_EQ(answer["question_id"], 81);
  EXPECT_EQ(answer["model_id"], "m");
  EXPECT_EQ(answer["tstamp"], 12.5);
  EXPECT_EQ(answer["choices"], Json::parse(R"([{"index": 0, "turns": ["one", "two"]}])"));
  EXPECT_EQ(answer["answer_id"].get<std::string>().size(), 22u);
  EXPECT_NE(answer["answer_id"], answer_json(mt_bench(), asked, {{"one", "three"}, 12.5}, "m")["answer_id"]);
  EXPECT_EQ(answer_file(mt_bench(), {answer, answer}), answer.dump() + "\n" + answer.dump() + "\n");

  const auto asked_once = (*read_questions(alpaca(), R"([{"dataset": "d", "instruction": "i", "output": "o", "generator": "g"}])", "q"))[0];
  const Json output = answer_json(alpaca(), asked_once, {{"mine"}, 1}, "m");
  EXPECT_EQ(output, Json::parse(R"({"instruction": "i", "output": "mine", "generator": "m", "dataset": "d"})"));
  EXPECT_EQ(Json::parse(answer_file(alpaca(), {output})), Json::array({output}));
}

TEST(JudgeQuestions, BadFilesNameThePlace) {
  const auto message = [](const JudgeTask& task, const std::string& content) {
    const auto read = read_questions(task, content, "q.json");
    return read.ok() ? "read" : read.error().message;
  };
  const std::string line = R"({"question_id": 1, "category": "math", "turns": ["a"]})";
  EXPECT_EQ(message(mt_bench(), line), "read");
  EXPECT_EQ(message(mt_bench(), line + "\n" + line), "q.json:2: question_id 1 stands there twice");
  EXPECT_EQ(message(mt_bench(), R"({"category": "math", "turns": ["a"]})"), "q.json:1: key 'question_id' must be a number or a string");
  EXPECT_EQ(message(mt_bench(), R"({"question_id": 1, "category": "math", "turns": []})"), "q.json:1: key 'turns' has no turn");
  EXPECT_EQ(message(mt_bench(), R"({"question_id": 1, "category": "math", "turns": [3]})"), "q.json:1: key 'turns' must be a list of strings");
  EXPECT_EQ(message(alpaca(), "{}"), "q.json: a JSON list of objects with \"instruction\" is expected");
  EXPECT_EQ(message(alpaca(), R"([{"instruction": "a"}, {"output": "b"}])"), "q.json: item 2: key 'instruction' is missing");
  EXPECT_EQ(message(alpaca(), "[4]"), "q.json: item 1: not a JSON object");
  EXPECT_NE(message(mt_bench(), "\xff"), "read");
  EXPECT_NE(message(alpaca(), "[{\"instruction\": \"\xff\"}]"), "read");
}

}  // namespace
}  // namespace retort::cli
