// A run that was interrupted goes on bit for bit, and only as the run that it was.
#include <csignal>
#include <filesystem>

#include <gtest/gtest.h>

#include "io/model_files.h"
#include "support/run_fixture.h"
#include "support/tiny_model.h"
#include "train/second_teacher.h"

namespace retort::train {
namespace {

TEST_F(RunTest, ResumedBitForBit) {
  ASSERT_TRUE(go("straight").ok());
  go_in_pieces("pieces", {7, 6, 7, 1, 5});  // inside stage 1, at its end, at the start of stage 2, inside it
  EXPECT_EQ(student("pieces"), student("straight"));
  EXPECT_EQ(steps("pieces"), steps("straight"));
  go_in_pieces("early", {1});
  EXPECT_EQ(student("early"), student("straight"));
}

TEST_F(RunTest, KilledAndResumedBitForBit) {
  ASSERT_TRUE(go("straight").ok());
  for (const int64_t death : {0, 6, 13, 24}) {
    const std::string name = cat("killed", death);
    ASSERT_NO_FATAL_FAILURE(go_and_be_killed(recipe({{"checkpoint_minutes", "1e-9", "--set"}}), name, death));
    const auto result = go(name, true);
    ASSERT_TRUE(result.ok()) << result.error().message;
    EXPECT_EQ(student(name), student("straight")) << death;
    EXPECT_EQ(steps(name), steps("straight")) << death;
  }
}

// 20 steps in two halves, a layer each, then kd: kills inside either, at their ends, and before anything of the second was saved.
TEST_F(RunTest, StepsAreResumedBitForBit) {
  const std::vector<Override> stepwise = {{"student.stepwise", "one_by_one", "--set"}};
  const auto straight = go("straight", false, {}, stepwise);
  ASSERT_TRUE(straight.ok()) << straight.error().message;
  std::vector<std::string> names;
  for (const auto& stage : (*straight)["stages"]) names.push_back(stage["name"]);
  EXPECT_EQ(names, (std::vector<std::string>{"align[layer0]", "align[layer1]", "kd"}));
  EXPECT_EQ((*straight)["stages"][1]["steps"], 10);
  EXPECT_EQ((*straight)["steps"][0], (nlohmann::ordered_json{{"step", "layer0"}, {"replaces", "0"}, {"attention", "1"}}));
  EXPECT_EQ((*straight)["kept"], nlohmann::ordered_json::array({"advanced"}));
  EXPECT_NE(steps("straight").find("\"stage\":\"align[layer1]\",\"step\":10,\"steps\":10"), std::string::npos) << steps("straight");
  ASSERT_TRUE(go("at-once").ok());
  EXPECT_NE(student("at-once"), student("straight"));
  for (const int64_t death : {3, 9, 10, 11, 19, 20, 26}) {
    for (const char* often : {"1e-9", "0"}) {
      const std::string name = cat("killed", death, often);
      auto overrides = stepwise;
      overrides.push_back({"checkpoint_minutes", often, "--set"});
      ASSERT_NO_FATAL_FAILURE(go_and_be_killed(recipe(overrides), name, death));
      const auto result = go(name, true, {}, stepwise);
      ASSERT_TRUE(result.ok()) << result.error().message;
      EXPECT_EQ(student(name), student("straight")) << name;
      EXPECT_EQ(steps(name), steps("straight")) << name;
    }
  }
}

// Two steps that keep what they were given read what one stage of both their budgets reads.
TEST_F(RunTest, StepsReadOnWhereTheOneBeforeStopped) {
  std::vector<std::vector<int32_t>> at_once, in_steps;
  const auto reading = [](std::vector<std::vector<int32_t>>& out) {
    fake::FakeBehaviour behaviour;
    behaviour.on_batch = [&out](const Batch& batch) { out.push_back(batch.tokens); };
    return behaviour;
  };
  ASSERT_TRUE(go("a", false, reading(at_once)).ok());
  ASSERT_TRUE(go("b", false, reading(in_steps), {{"student.stepwise", "one_by_one", "--set"}}).ok());
  EXPECT_EQ(in_steps, at_once);
}

TEST_F(RunTest, ChatsAndPairsAreResumedBitForBit) {
  const auto straight = go(chat_recipe(), "straight");
  ASSERT_TRUE(straight.ok()) << straight.error().message;
  for (const int64_t death : {3, 10, 23, 24, 27, 31}) {  // 12 steps of two batches, then 8 of one
    const std::string name = cat("killed", death);
    ASSERT_NO_FATAL_FAILURE(go_and_be_killed(chat_recipe({{"checkpoint_minutes", "1e-9", "--set"}}), name, death));
    const auto result = go(chat_recipe(), name, true);
    ASSERT_TRUE(result.ok()) << result.error().message;
    EXPECT_EQ(student(name), student("straight")) << death;
    EXPECT_EQ(steps(name), steps("straight")) << death;
  }
}

TEST_F(RunTest, AnotherRecipeIsNotGoneOnWith) {
  ASSERT_TRUE(go("a").ok());
  auto result = go("a", true, {}, {{"align.lr", "0.02", "--set"}});
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message.find("align.lr: 0.01 -> 0.02"), std::string::npos) << result.error().message;
  result = go("a");
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message.find("--resume"), std::string::npos);
  EXPECT_TRUE(go("a", false, {}, {{"align.lr", "0.02", "--set"}}, true).ok()) << "--overwrite";
}

TEST_F(RunTest, ChangedTextIsNotGoneOnWith) {
  catch_interrupts();
  ASSERT_FALSE(go("a", false, {-1, [](int64_t n) { if (n == 3) ::raise(SIGINT); }}).ok());
  clear_interrupt();
  test::write_file(folder_ / "corpus.jsonl", "{\"text\": \"Something else entirely.\"}\n{\"text\": \"And more.\"}\n");
  auto result = go("a", true);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().message.rfind(folder_ / "corpus.jsonl: its text is ", 0), 0u) << result.error().message;
  EXPECT_NE(result.error().message.find("not the one this run began with"), std::string::npos);
  std::filesystem::remove(folder_ / "corpus.jsonl");
  result = go("a", true);
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message.find("corpus.jsonl"), std::string::npos);
}

TEST_F(RunTest, ResumingNothingIsAnError) {
  std::filesystem::create_directories(folder_ / "empty");
  for (const char* name : {"absent", "empty"}) {
    const auto result = go(name, true);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, ErrorCode::kInvalidInput);
    EXPECT_NE(result.error().message.find("no run to go on with; without --resume"), std::string::npos) << result.error().message;
  }
  EXPECT_FALSE(std::filesystem::exists(folder_ / "absent"));
  EXPECT_TRUE(std::filesystem::is_empty(folder_ / "empty"));
}

// Text of its own, a budget in epochs, a rate that falls on plateaus, a second teacher: kills anywhere change no bit.
TEST_F(RunTest, WhatStagesHaveOfTheirOwnIsResumedBitForBit) {
  chat_recipe();   // writes the texts
  const auto own = [&](const std::vector<Override>& overrides = {}) {
    auto parsed = parse_recipe(cat("name: own\nseed: 4\ncheckpoint_minutes: 0\nstudent: {mixer: slots, window: 8}\ndata: {held_out: 0.1}\n"
                                   "defaults: {seq: 32, batch: 2, lr: 0.01, train: all}\nstages:\n"
                                   "- {name: text, loss: logits, steps: 12, schedule: {plateau: {every: 2, patience: 0, factor: 0.5, min_lr: 1e-3, threshold: 0.9}},\n"
                                   "   switch_teacher: {to: big, when: {plateau: {every: 2, patience: 1, threshold: 0.9}}}}\n"
                                   "- {name: chat, loss: logits, epochs: 0.7, data: [", folder_ / "chats.jsonl", "], switch_teacher: {to: big, when: {fraction: 0.5}}}\n"
                                   "- {name: pairs, loss: dpo, epochs: 1, accumulate: 2, data: ", folder_ / "pairs.jsonl", ", max_prompt: 20}\n"),
                               "own.yaml", overrides);
    EXPECT_TRUE(parsed.ok()) << parsed.error().message;
    parsed->data.train = {folder_ / "corpus.jsonl"};
    return *parsed;
  };
  const auto result = go(own(), "straight");
  ASSERT_TRUE(result.ok()) << result.error().message;
  const auto& stages = (*result)["stages"];
  const int64_t chat_steps = stages[1]["steps"];
  EXPECT_EQ(chat_steps, int64_t(std::ceil(0.7 * stages[1]["epoch_tokens"].get<double>() / 64)));
  EXPECT_EQ(stages[2]["steps"], (stages[2]["epoch_pairs"].get<int64_t>() + 3) / 4);
  EXPECT_EQ(stages[0]["second_teacher"]["hash"], "hash of big");
  const int64_t switched = stages[0]["second_teacher"]["after_steps"];
  EXPECT_EQ(switched, 6) << "a first mean, and two in a row that are no better";
  EXPECT_EQ(stages[1]["second_teacher"]["after_steps"], chat_steps / 2) << "the first step whose middle lies in the second half";
  std::istringstream rows(test::read_file(folder_ / "straight/metrics.jsonl"));
  std::vector<double> rates;
  for (std::string line; std::getline(rows, line);) {
    const auto row = nlohmann::json::parse(line);
    if (row["stage"] != "text") continue;
    EXPECT_EQ(row["teacher"], row["step"].get<int64_t>() > switched ? "big" : "teacher.gguf");
    rates.push_back(row["lr"]);
  }
  // Means of two steps, none of them 90 % below the best: each from the second on halves the rate, but for the first against another teacher.
  EXPECT_EQ(rates, (std::vector<double>{0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025, 0.0025, 0.0025, 0.00125, 0.00125}));
  for (const int64_t death : std::vector<int64_t>{2, 5, 6, 9, 12, 12 + chat_steps / 2, 12 + chat_steps - 1, 12 + chat_steps + 3}) {
    const std::string name = cat("killed", death);
    ASSERT_NO_FATAL_FAILURE(go_and_be_killed(own({{"checkpoint_minutes", "1e-9", "--set"}}), name, death));
    const auto resumed = go(own(), name, true);
    ASSERT_TRUE(resumed.ok()) << resumed.error().message;
    EXPECT_EQ(student(name), student("straight")) << death;
    EXPECT_EQ(steps(name), steps("straight")) << death;
    EXPECT_EQ((*resumed)["stages"][0]["second_teacher"]["after_steps"], switched) << death;
  }
}

TEST_F(RunTest, AStagesOwnTextMustStayAndAWrongSecondTeacherIsRefused) {
  chat_recipe();
  const std::string data = cat("[", folder_ / "chats.jsonl", "]");
  const std::vector<Override> own = {{"kd.data", data, "--set"}};
  catch_interrupts();
  ASSERT_FALSE(go("a", false, {-1, [](int64_t n) { if (n == 3) ::raise(SIGINT); }}, own).ok());
  clear_interrupt();
  auto result = go("a", true);
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message.find("chats.jsonl: missing; this run began with its text"), std::string::npos) << result.error().message;
  test::write_file(folder_ / "chats.jsonl", "{\"prompt\": \"a\", \"response\": \"b\"}\n");
  EXPECT_FALSE(go("a", true, {}, own).ok());
  const auto stranger = go("b", false, {-1, [](int64_t) { ADD_FAILURE() << "a step was made"; }}, {{"kd.switch_teacher", "{to: stranger}", "--set"}});
  ASSERT_FALSE(stranger.ok());
  EXPECT_EQ(stranger.error().message, "stage 'kd', switch_teacher.to: stranger: other tokens");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "b"));
}

// Its hash is in the student, and a run goes on only from the same one: what differs is said.
TEST_F(RunTest, TheStudentThatARunStartsFromMustStay) {
  const std::string before = folder_ / "before";
  ModelConfig config = fake::fake_config();
  config.family = "llama";
  const auto write = [&](uint64_t seed) {
    std::filesystem::remove_all(before);
    ASSERT_TRUE(validate_plan(config).ok());
    ASSERT_TRUE(test::write_random_model(before, config, seed).ok());
  };
  const std::vector<Override> start = {{"student.start", before, "--start"}, {"checkpoint_minutes", "1e-9", "--set"}};
  config.plan[0].parts = {Part{"gla", {0}, {5, 2}, nlohmann::json::object()}};
  write(1);
  ASSERT_TRUE(go("straight", false, {}, start).ok());
  catch_interrupts();
  ASSERT_FALSE(go("a", false, {-1, [](int64_t n) { if (n == 3) ::raise(SIGINT); }}, start).ok());
  clear_interrupt();
  const auto refused = [&]() -> std::string {
    const auto result = go("a", true, {-1, [](int64_t) { ADD_FAILURE() << "a step was made"; }}, start);
    return result.ok() ? "" : result.error().message;
  };
  write(2);
  EXPECT_EQ(refused().find("student.start: " + before + ": not the student that this run started from: its weights are others (their hash is \""), 0u) << refused();
  config.plan[0].parts[0].window.size = 7;
  write(1);
  EXPECT_EQ(refused(), "student.start: " + before + ": not the student that this run started from: layer 0, part 0.window: 5 -> 7");
  config.plan[0].parts[0].window.size = 5;
  write(1);
  const auto resumed = go("a", true, {}, start);
  ASSERT_TRUE(resumed.ok()) << resumed.error().message;
  EXPECT_EQ(student("a"), student("straight"));
  const auto made = nlohmann::json::parse(test::read_file(folder_ / "a/student/config.json"))["start"];
  EXPECT_EQ(made["from"], before);
  EXPECT_EQ(made["hash"], *hash_weights(*open_model(before)->weights));
  ASSERT_TRUE(go("plain").ok());
  EXPECT_EQ(nlohmann::json::parse(test::read_file(folder_ / "plain/student/config.json"))["start"], (nlohmann::json{{"from", "teacher"}, {"hash", nullptr}}));
}

TEST_F(RunTest, ASecondTeacherThatHasChangedMeanwhileIsNotAsked) {
  test::write_file(folder_ / "big", "as it was");
  const std::string change = cat("{to: ", folder_ / "big", ", when: {step: 4}}");
  const auto result = go("a", false, {-1, [&](int64_t n) { if (n == 1) test::write_file(folder_ / "big", "as it is"); }}, {{"kd.switch_teacher", change, "--set"}});
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().message, cat("stage 'kd', switch_teacher.to: ", folder_ / "big", " is not the second teacher this run began with (its hash is hash of as it is, "
                                        "was hash of as it was)"));
  // Nor by a run that had switched before: its checkpoint stays for when the file is back.
  test::write_file(folder_ / "big", "as it was");
  catch_interrupts();
  ASSERT_FALSE(go("b", false, {-1, [](int64_t n) { if (n == 30) ::raise(SIGINT); }}, {{"kd.switch_teacher", change, "--set"}}).ok());
  clear_interrupt();
  test::write_file(folder_ / "big", "as it is");
  EXPECT_FALSE(go("b", true, {}, {{"kd.switch_teacher", change, "--set"}}).ok());
  test::write_file(folder_ / "big", "as it was");
  EXPECT_TRUE(go("b", true, {}, {{"kd.switch_teacher", change, "--set"}}).ok());
}

TEST_F(RunTest, ASecondTeacherIsOpenedAsItWasOrNot) {
  ModelConfig config = fake::fake_config();
  config.family = "llama";
  config.plan = attention_plan(config);
  ASSERT_TRUE(test::write_random_model(folder_ / "first", config, 1).ok());
  ASSERT_TRUE(test::write_random_model(folder_ / "second", config, 2).ok());
  const auto first = open_model(folder_ / "first"), second = open_model(folder_ / "second");
  ASSERT_TRUE(first.ok() && second.ok());
  StageSpec stage;
  stage.name = "kd", stage.seq = 16, stage.switch_teacher.to = folder_ / "second";
  const std::string hash = *hash_weights(*second->weights);
  const auto opened = open_same_second_teacher(*first, stage, hash);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  EXPECT_EQ(opened->path, folder_ / "second");
  const auto changed = open_same_second_teacher(*first, stage, "abc");
  ASSERT_FALSE(changed.ok());
  EXPECT_EQ(changed.error().message, cat("stage 'kd', switch_teacher.to: ", folder_ / "second", " is not the second teacher this run began with (its hash is ", hash,
                                         ", was abc)"));
  stage.seq = 4096;
  EXPECT_EQ(open_same_second_teacher(*first, stage, hash).error().message.rfind("stage 'kd', switch_teacher.to: ", 0), 0u);
}

// Once before the run, once for the switch; a run that goes on after the switch opens it for that alone.
TEST_F(RunTest, ASecondTeacherIsOpenedOnceForASwitch) {
  const std::vector<Override> change = {{"kd.switch_teacher", "{to: big, when: {step: 4}}", "--set"}};
  int opened = 0;
  fake::FakeBehaviour behaviour;
  behaviour.on_second_teacher = [&](const std::string&) { ++opened; };
  ASSERT_TRUE(go("a", false, behaviour, change).ok());
  EXPECT_EQ(opened, 2);
  catch_interrupts();
  behaviour.on_step = [](int64_t n) { if (n == 30) ::raise(SIGINT); };   // kd's sixth
  ASSERT_FALSE(go("b", false, behaviour, change).ok());
  clear_interrupt();
  opened = 0, behaviour.on_step = nullptr;
  ASSERT_TRUE(go("b", true, behaviour, change).ok());
  EXPECT_EQ(opened, 1);
  EXPECT_EQ(student("b"), student("a"));
}

// Killed before its first checkpoint: what goes on is the same run, or says what differs.
TEST_F(RunTest, ARecipeIsComparedBeforeThereIsACheckpoint) {
  ASSERT_TRUE(go("straight").ok());
  ASSERT_NO_FATAL_FAILURE(go_and_be_killed(recipe(), "killed", 2));
  const auto other = go("killed", true, {}, {{"kd.lr", "0.02", "--set"}});
  ASSERT_FALSE(other.ok());
  EXPECT_NE(other.error().message.find("the recipe differs from the one this run began with: "), std::string::npos) << other.error().message;
  ASSERT_TRUE(go("killed", true).ok());
  EXPECT_EQ(student("killed"), student("straight"));
}

// Killed while the new student starts: what goes on is the new run, not the one that was to be overwritten.
TEST_F(RunTest, AnOverwrittenRunIsNotGoneOnWith) {
  ASSERT_TRUE(go("finished").ok());
  catch_interrupts();
  ASSERT_FALSE(go("stopped", false, {-1, [](int64_t n) { if (n == 12) ::raise(SIGINT); }}).ok());
  clear_interrupt();
  const std::string before = student("finished");
  fake::FakeBehaviour dies;
  dies.on_start = [] { ::raise(SIGKILL); };
  for (const std::string name : {"finished", "stopped"}) {
    ASSERT_NO_FATAL_FAILURE(go_and_be_killed(recipe({{"kd.lr", "0.02", "--set"}}), name, dies, true));
    int64_t steps = 0;
    fake::FakeBehaviour counts;
    counts.on_step = [&](int64_t) { ++steps; };
    const auto result = go(name, true, counts, {{"kd.lr", "0.02", "--set"}});
    ASSERT_TRUE(result.ok()) << result.error().message;
    EXPECT_EQ(steps, 20 + 9 * 2) << name << ": from its beginning";
  }
  EXPECT_EQ(student("finished"), student("stopped"));
  EXPECT_NE(student("finished"), before);
}

}  // namespace
}  // namespace retort::train
