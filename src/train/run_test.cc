// What a run leaves, and what is refused before it begins.
#include <filesystem>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "base/sha256.h"
#include "support/run_fixture.h"

namespace retort::train {
namespace {

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
  const auto teacher = go("a", false, {}, {{"student.mixer", "attention", "--set"}, {"student.window", "0", "--set"}});
  ASSERT_FALSE(teacher.ok());
  EXPECT_NE(teacher.error().message.find("losses reach; all of its layers are the teacher's attention"), std::string::npos) << teacher.error().message;
  EXPECT_TRUE(go("b", false, {}, {{"kd.train", "[gates, 'model.layers.*.mixer.*']", "--set"}}).ok()) << "a group may be empty";
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

TEST_F(RunTest, RowsFitTheTeachersContext) {  // of 512 tokens
  const auto result = go("long", false, {}, {{"kd.seq", "513", "--set"}});
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().message, "recipe: kd.seq is 513; the teacher was made for 512 tokens at most");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "long"));
  EXPECT_TRUE(go("fits", false, {}, {{"kd.seq", "512", "--set"}, {"kd.steps", "1", "--set"}}).ok());
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
