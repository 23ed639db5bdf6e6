#include "train/run.h"

#include <cmath>
#include <csignal>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "base/interrupt.h"
#include "base/sha256.h"
#include "io/model_files.h"
#include "support/fake_backend.h"
#include "support/fake_encoders.h"
#include "support/tiny_model.h"
#include "test_files.h"
#include "train/random.h"
#include "train/second_teacher.h"

namespace retort::train {
namespace {

constexpr const char* kRecipe = R"(name: tiny
seed: 4
save_init: true
checkpoint_minutes: 0
student: {mixer: slots, window: 8}
data: {held_out: 0.1}
defaults: {seq: 16, batch: 2, lr: 0.01, clip: 1, ema: 0.9, repeat_every: 3}
stages:
- {name: align, loss: attn_out, steps: 20, schedule: {wsd: {warmup_steps: 3, decay: 0.5}}}
- {name: kd, loss: {logits: 1, ce: 1}, train: all, steps: 9, accumulate: 2, weight_decay: 0.1, schedule: cosine}
)";

class RunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    clear_interrupt();
    std::string lines;
    for (int d = 0; d < 60; ++d) lines += nlohmann::json{{"text", cat("Text number ", d, ".\n\n", std::string(size_t(200 + d), char('a' + d % 26)))}}.dump() + "\n";
    test::write_file(folder_ / "corpus.jsonl", lines);
  }
  void TearDown() override { clear_interrupt(); }

  Recipe recipe(const std::vector<Override>& overrides = {}) {
    auto parsed = parse_recipe(kRecipe, "tiny.yaml", overrides);
    EXPECT_TRUE(parsed.ok()) << parsed.error().message;
    parsed->data.train = {folder_ / "corpus.jsonl"};
    return *parsed;
  }
  // Text and chats by weight, then pairs.
  Recipe chat_recipe(const std::vector<Override>& overrides = {}) {
    std::string chats, pairs;
    for (int d = 0; d < 40; ++d) {
      const std::string question = cat("What is ", d, "?"), answer = cat("It is ", d, std::string(size_t(d % 23), '.'));
      chats += nlohmann::json{{"prompt", question}, {"response", answer}}.dump() + "\n";
      pairs += nlohmann::json{{"prompt", question}, {"chosen", answer}, {"rejected", cat("It is ", 40 - d)}}.dump() + "\n";
    }
    test::write_file(folder_ / "chats.jsonl", chats);
    test::write_file(folder_ / "pairs.jsonl", pairs);
    auto parsed = parse_recipe("name: chats\nseed: 4\ncheckpoint_minutes: 0\nstudent: {mixer: slots, window: 8}\ndata: {held_out: 0.1}\n"
                               "defaults: {seq: 32, batch: 2, lr: 0.01, train: all}\nstages:\n"
                               "- {name: sft, loss: ce, steps: 12, accumulate: 2}\n"
                               "- {name: dpo, loss: {dpo: {reference: start}}, steps: 8, max_prompt: 20, ema: 0.9}\n", "chats.yaml", overrides);
    EXPECT_TRUE(parsed.ok()) << parsed.error().message;
    parsed->data.train = {{folder_ / "corpus.jsonl"}, {folder_ / "chats.jsonl", 3}, {folder_ / "pairs.jsonl", 2}};
    return *parsed;
  }
  RunParts parts(fake::FakeBehaviour behaviour = {}) {
    return {[behaviour](const Recipe&, const BackendOptions&) -> Result<std::unique_ptr<Backend>> {
              return std::unique_ptr<Backend>(new fake::FakeBackend(behaviour));
            },
            [](const std::string&) -> Result<Encoders> { return fake::encoders(); }};
  }
  Result<nlohmann::ordered_json> go(const std::string& name, bool resume = false, fake::FakeBehaviour behaviour = {},
                                    const std::vector<Override>& overrides = {}, bool overwrite = false) {
    return go(recipe(overrides), name, resume, behaviour, overwrite);
  }
  Result<nlohmann::ordered_json> go(const Recipe& recipe, const std::string& name, bool resume = false, fake::FakeBehaviour behaviour = {},
                                    bool overwrite = false) {
    RunOptions options;
    options.teacher = "teacher.gguf";
    options.out = folder_ / name;
    options.resume = resume;
    options.overwrite = overwrite;
    options.threads = 1;
    options.how_to_resume = "retort distill ... --resume";
    return run_recipe(recipe, options, parts(behaviour));
  }
  // The run in `name` is interrupted after each of these many steps, and resumed.
  void go_in_pieces(const std::string& name, const std::vector<int>& pieces) {
    for (size_t i = 0; i < pieces.size(); ++i) {
      clear_interrupt();
      catch_interrupts();
      const int64_t last = pieces[i] - 1;
      const auto result = go(name, i > 0, {-1, [last](int64_t n) { if (n == last) ::raise(SIGINT); }});
      ASSERT_FALSE(result.ok());
      ASSERT_EQ(result.error().code, ErrorCode::kInterrupted) << result.error().message;
      EXPECT_NE(result.error().message.find("--resume"), std::string::npos);
    }
    clear_interrupt();
    const auto result = go(name, true);
    ASSERT_TRUE(result.ok()) << result.error().message;
  }
  std::string student(const std::string& name) { return test::read_file(folder_ / (name + "/student/weights.bin")); }
  // metrics.jsonl without the columns that the clock writes.
  std::string steps(const std::string& name) {
    std::stringstream in(test::read_file(folder_ / (name + "/metrics.jsonl")));
    std::string out;
    for (std::string line; std::getline(in, line);) {
      auto row = nlohmann::json::parse(line);
      for (const char* key : {"time", "tokens_per_s"}) row.erase(key);
      out += row.dump() + "\n";
    }
    return out;
  }

  test::TempFolder folder_;
};

TEST_F(RunTest, LeavesWhatARunFolderHas) {
  const auto result = go("a");
  ASSERT_TRUE(result.ok()) << result.error().message;
  for (const char* name : {"recipe.yaml", "recipe.json", "held_out.jsonl", "metrics.jsonl", "student/config.json", "student-init/config.json", "train.json"}) {
    EXPECT_TRUE(std::filesystem::exists(folder_ / (std::string("a/") + name))) << name;
  }
  EXPECT_FALSE(std::filesystem::exists(folder_ / "a/checkpoints")) << "a finished run needs none";
  const auto train = nlohmann::json::parse(test::read_file(folder_ / "a/train.json"));
  EXPECT_EQ(train["tokens_trained"], 20 * 32 + 9 * 64);
  EXPECT_EQ(train["stages"].size(), 2u);
  EXPECT_EQ(train["kept"], nlohmann::json::array({"1.0"}));
  EXPECT_LT(train["stages"][1]["last_loss"], train["stages"][0]["first_loss"]);
  const auto resolved = load_recipe(folder_ / "a/recipe.yaml");
  ASSERT_TRUE(resolved.ok()) << resolved.error().message;
  EXPECT_NE(student("a"), test::read_file(folder_ / "a/student-init/weights.bin"));
  const auto config = nlohmann::json::parse(test::read_file(folder_ / "a/student/config.json"));
  EXPECT_EQ(config["teacher"]["hash"], "00000000deadbeef");
  EXPECT_EQ(config["recipe"]["stages"][1]["name"], "kd");
}

// What it takes to do it again: recipe, seed, versions, teacher, text.
TEST_F(RunTest, TheStudentSaysWhatItIsMadeOf) {
  ASSERT_TRUE(go("a").ok());
  const auto config = nlohmann::json::parse(test::read_file(folder_ / "a/student/config.json"));
  EXPECT_FALSE(config["retort"].get<std::string>().empty());
  EXPECT_EQ(config["library"], "fake 1");
  EXPECT_EQ(config["seed"], 4);
  EXPECT_EQ(config["teacher"]["name"], "teacher.gguf");
  EXPECT_EQ(config["teacher"]["hash"], "00000000deadbeef");
  EXPECT_EQ(config["data_hash"].get<std::string>().size(), 16u);
  const auto text = test::read_file(folder_ / "corpus.jsonl");
  EXPECT_EQ(config["data"], nlohmann::json::array({{{"file", folder_ / "corpus.jsonl"}, {"bytes", text.size()}, {"sha256", sha256_hex(text)}}}));
  const auto again = parse_recipe(config["recipe"].dump(), "config.json");  // JSON is YAML
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_EQ(nlohmann::json::parse(recipe_json(*again).dump()), nlohmann::json::parse(recipe_json(recipe()).dump()));
  for (const auto& stage : config["stages"]) EXPECT_EQ(stage["skipped"], 0);
}

TEST_F(RunTest, LayersAreLoggedNowAndThen) {
  ASSERT_TRUE(go("a").ok());
  std::stringstream in(test::read_file(folder_ / "a/metrics.jsonl"));
  std::vector<int64_t> logged;
  for (std::string line; std::getline(in, line);) {
    const auto row = nlohmann::json::parse(line);
    if (!row.contains("layers")) continue;
    ASSERT_EQ(row["stage"], "align");
    logged.push_back(row["step"]);
    const auto& layers = row["layers"]["attn_out"];
    ASSERT_EQ(layers.size(), 3u);
    EXPECT_NEAR(layers[0].get<double>(), row["loss"].get<double>() / 2, 1e-3 * row["loss"].get<double>());
    EXPECT_TRUE(layers[1].is_null());
    EXPECT_EQ(layers[2], 0.3333);
  }
  EXPECT_EQ(logged, (std::vector<int64_t>{1, 10, 20}));
}

TEST_F(RunTest, MatricesAreOfTheSameTextAlways) {
  ASSERT_TRUE(go("a").ok());
  go_in_pieces("b", {7, 15});
  const auto matrices = nlohmann::json::parse(test::read_file(folder_ / "a/matrices.json"));
  EXPECT_EQ(matrices["tokens"], 256);
  EXPECT_EQ(matrices["heads"].size(), 1u);
  EXPECT_EQ(test::read_file(folder_ / "a/matrices.json"), test::read_file(folder_ / "b/matrices.json"));
}

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
    const pid_t child = fork();
    if (child == 0) {
      (void)go(name, false, {-1, [death](int64_t n) { if (n == death) ::raise(SIGKILL); }}, {{"checkpoint_minutes", "1e-9", "--set"}});
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
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
      const pid_t child = fork();
      if (child == 0) {
        (void)go(name, false, {-1, [death](int64_t n) { if (n == death) ::raise(SIGKILL); }}, overrides);
        _exit(0);
      }
      int status = 0;
      ASSERT_EQ(waitpid(child, &status, 0), child);
      ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
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
    const pid_t child = fork();
    if (child == 0) {
      (void)go(chat_recipe({{"checkpoint_minutes", "1e-9", "--set"}}), name, false, {-1, [death](int64_t n) { if (n == death) ::raise(SIGKILL); }});
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    const auto result = go(chat_recipe(), name, true);
    ASSERT_TRUE(result.ok()) << result.error().message;
    EXPECT_EQ(student(name), student("straight")) << death;
    EXPECT_EQ(steps(name), steps("straight")) << death;
  }
}

TEST_F(RunTest, WeightsArePartOfTheRecipe) {
  Recipe weighted = chat_recipe();
  ASSERT_TRUE(go(weighted, "a").ok());
  ASSERT_TRUE(go(weighted, "a", true).ok()) << "the same again";
  weighted.data.train[1].weight = 5;
  const auto result = go(weighted, "a", true);
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message.find("data.weights"), std::string::npos) << result.error().message;
}

TEST_F(RunTest, DpoWithoutPairsIsRefusedBeforeAnything) {
  Recipe alone = chat_recipe();
  alone.data.train = {folder_ / "chats.jsonl"};
  const auto result = go(alone, "a");
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().message, "recipe: stage 'dpo' compares answers, but no line of the data has \"prompt\", \"chosen\" and \"rejected\"");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "a"));
}

TEST_F(RunTest, AFinishedRunIsNotRepeated) {
  ASSERT_TRUE(go("a").ok());
  const auto before = std::filesystem::last_write_time(folder_ / "a/train.json");
  int64_t steps = 0;
  const auto result = go("a", true, {-1, [&](int64_t) { ++steps; }});
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(steps, 0);
  EXPECT_EQ(std::filesystem::last_write_time(folder_ / "a/train.json"), before);
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

TEST_F(RunTest, SomebodyElsesFolderIsLeftAlone) {
  std::filesystem::create_directories(folder_ / "home");
  test::write_file(folder_ / "home/letter.txt", "dear");
  for (const bool overwrite : {false, true}) {
    const auto result = go("home", false, {}, {}, overwrite);
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, ErrorCode::kInvalidInput);
  }
  EXPECT_EQ(test::read_file(folder_ / "home/letter.txt"), "dear");
}

TEST_F(RunTest, OneProcessAtATime) {
  std::string said;
  const auto outer = go("a", false, {-1, [&](int64_t n) {
    if (n != 2) return;
    const auto inner = go("a", false, {}, {}, true);
    said = inner.ok() ? "both ran" : inner.error().message;
  }});
  EXPECT_TRUE(outer.ok());
  EXPECT_NE(said.find("another process is at work"), std::string::npos) << said;
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

TEST_F(RunTest, StagesThatTrainNothingAreRefusedBeforeTheFirstStep) {
  const auto message = [&](const char* pattern) {
    const auto result = go("a", false, {-1, [](int64_t) { ADD_FAILURE() << "a step was made"; }}, {{"kd.train", pattern, "--set"}});
    EXPECT_FALSE(std::filesystem::exists(folder_ / "a"));
    return result.ok() ? "it ran" : result.error().message;
  };
  EXPECT_NE(message("[mixers, mixerz]").find("kd.train: no tensor of this student is called 'mixerz', and the groups are: all, mixers,"), std::string::npos);
  EXPECT_NE(message("[attention]").find("stage 'kd' trains no tensor"), std::string::npos);
  const auto aligned = go("a", false, {}, {{"align.train", "[mlp]", "--set"}});  // attn_out does not depend on it
  ASSERT_FALSE(aligned.ok());
  EXPECT_NE(aligned.error().message.find("stage 'align' trains no tensor of this student that its losses reach"), std::string::npos);
  EXPECT_TRUE(go("b", false, {}, {{"kd.train", "[gates, 'model.layers.*.mixer.*']", "--set"}}).ok()) << "a group may be empty";
}

TEST_F(RunTest, LossesThatAreNotFinite) {
  const auto result = go("a", false, {3, {}});
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::kInvalidInput);
  EXPECT_NE(result.error().message.find("not finite in 5 steps in a row"), std::string::npos);
  EXPECT_NE(result.error().message.find("--set align.lr="), std::string::npos);
}

TEST_F(RunTest, SkippedStepsAreCountedAndTheRunGoesOn) {
  const auto result = go("a", false, {3, {}, 4});
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_EQ((*result)["stages"][0]["skipped"], 4);
  EXPECT_EQ((*result)["stages"][1]["skipped"], 0);
  EXPECT_FALSE(std::filesystem::exists(folder_ / "a/bad_step.json"));
}

TEST_F(RunTest, TheStepThatEndedARunCanBeLookedAt) {
  const auto result = go("a", false, {3, {}}, {{"align.max_skipped", "2", "--set"}});
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message.find("not finite in 2 steps in a row, the last one step 5; "), std::string::npos) << result.error().message;
  EXPECT_NE(result.error().message.find("a/bad_step.json has that step's data"), std::string::npos) << result.error().message;
  const auto step = nlohmann::json::parse(test::read_file(folder_ / "a/bad_step.json"));
  EXPECT_EQ(step["stage"], "align");
  EXPECT_EQ(step["step"], 5);
  EXPECT_EQ(step["run_step"], 5);
  EXPECT_EQ(step["skipped_in_a_row"], 2);
  EXPECT_EQ(step["loss"], "nan");
  ASSERT_EQ(step["batches"].size(), 1u);
  EXPECT_EQ(step["batches"][0]["tokens"].size(), 32u);
  EXPECT_EQ(step["batches"][0]["starts"][0], 0);
  // The same seed as the step's own: step 5 has run_step 4 before it.
  EXPECT_EQ(step["batches"][0]["seed"].get<uint64_t>(), mix_seed(4, 4, 7));
}

// Interrupted after three skipped steps: two more end the run.
TEST_F(RunTest, SkippedStepsInARowAreCountedOverAResume) {
  catch_interrupts();
  ASSERT_FALSE(go("a", false, {2, [](int64_t n) { if (n == 4) ::raise(SIGINT); }}).ok());
  clear_interrupt();
  const auto result = go("a", true, {0, {}});
  ASSERT_FALSE(result.ok());
  EXPECT_NE(result.error().message.find("5 steps in a row, the last one step 7;"), std::string::npos) << result.error().message;
}

// Too few steps for that many in a row: a stage that made no step has no loss to report and no student to go on with.
TEST_F(RunTest, AStageThatSkippedEveryStepIsAnError) {
  for (const auto& [steps, said] : {std::pair{"1", "not finite in its only step"}, std::pair{"3", "not finite in any of its 3 steps"}}) {
    const auto result = go(cat("a", steps), false, {0, {}}, {{"align.steps", steps, "--set"}, {"align.schedule", "constant", "--set"}});
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, ErrorCode::kInvalidInput);
    EXPECT_NE(result.error().message.find(said), std::string::npos) << result.error().message;
    EXPECT_FALSE(std::filesystem::exists(folder_ / cat("a", steps, "/student")));
  }
  EXPECT_TRUE(go("b", false, {24, {}}, {{"align.steps", "20", "--set"}, {"kd.steps", "3", "--set"}}).ok()) << "the last steps only";
}

TEST_F(RunTest, BadInputLeavesNothing) {
  const auto expect_nothing = [&](const Recipe& recipe) {
    RunOptions options;
    options.teacher = "teacher.gguf";
    options.out = folder_ / "new";
    const auto result = run_recipe(recipe, options, parts());
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, ErrorCode::kInvalidInput);
    EXPECT_FALSE(std::filesystem::exists(folder_ / "new")) << result.error().message;
  };
  auto no_text = recipe();
  no_text.data.train = {};
  expect_nothing(no_text);
  auto empty = recipe();
  test::write_file(folder_ / "empty.txt", "");
  empty.data.train = {folder_ / "empty.txt"};
  expect_nothing(empty);
  auto nobody = recipe();
  nobody.student.start = folder_ / "nobody";
  expect_nothing(nobody);
  auto idle = recipe();
  idle.stages[0].train = {"*.nothing.*"};
  expect_nothing(idle);
}

// Killed while its student was being started: the folder has a lock and no recipe, and the next run takes it over.
TEST_F(RunTest, TakesOverWhatNeverBegan) {
  for (const bool resume : {false, true}) {
    const std::string name = resume ? "resumed" : "early";
    std::filesystem::create_directories(folder_ / name);
    test::write_file(folder_ / (name + "/.lock"), "");
    test::write_file(folder_ / (name + "/recipe.json"), "{");
    EXPECT_TRUE(go(name, resume).ok());
  }
  std::filesystem::create_directories(folder_ / "foreign");
  test::write_file(folder_ / "foreign/letter.txt", "dear");
  EXPECT_FALSE(go("foreign").ok());
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

TEST_F(RunTest, RowsFitTheTeachersContext) {  // of 512 tokens
  const auto result = go("long", false, {}, {{"kd.seq", "513", "--set"}});
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().message, "recipe: kd.seq is 513; the teacher was made for 512 tokens at most");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "long"));
  EXPECT_TRUE(go("fits", false, {}, {{"kd.seq", "512", "--set"}, {"kd.steps", "1", "--set"}}).ok());
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
    const pid_t child = fork();
    if (child == 0) {
      (void)go(own({{"checkpoint_minutes", "1e-9", "--set"}}), name, false, {-1, [death](int64_t n) { if (n == death) ::raise(SIGKILL); }});
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
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
  EXPECT_NE(result.error().message.find("(its hash is hash of as it is, was hash of as it was)"), std::string::npos) << result.error().message;
}

// Killed before its first checkpoint: what goes on is the same run, or says what differs.
TEST_F(RunTest, ARecipeIsComparedBeforeThereIsACheckpoint) {
  ASSERT_TRUE(go("straight").ok());
  const pid_t child = fork();
  if (child == 0) {
    (void)go("killed", false, {-1, [](int64_t n) { if (n == 2) ::raise(SIGKILL); }});
    _exit(0);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  const auto other = go("killed", true, {}, {{"kd.lr", "0.02", "--set"}});
  ASSERT_FALSE(other.ok());
  EXPECT_NE(other.error().message.find("the recipe differs from the one this run began with: "), std::string::npos) << other.error().message;
  ASSERT_TRUE(go("killed", true).ok());
  EXPECT_EQ(student("killed"), student("straight"));
}

// A full disk, as far as a file-size limit can stand for one: the error is one line, and a resume with room finishes with the same bits.
TEST_F(RunTest, NoRoomForACheckpoint) {
  ASSERT_TRUE(go("straight").ok());
  const pid_t child = fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    rlimit limit{400000, 400000};  // the student has 280 kB; a checkpoint with moments more than a megabyte
    ::setrlimit(RLIMIT_FSIZE, &limit);
    const auto result = go("full", false, {}, {{"checkpoint_minutes", "1e-9", "--set"}});
    const bool right = !result.ok() && result.error().code == ErrorCode::kIo && result.error().message.find('\n') == std::string::npos;
    _exit(right ? 42 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 42);
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_ / "full")) {
    EXPECT_EQ(entry.path().string().find(".tmp."), std::string::npos) << entry.path();
  }
  ASSERT_TRUE(go("full", true).ok());
  EXPECT_EQ(student("full"), student("straight"));
}

}  // namespace
}  // namespace retort::train
