// A tiny recipe, its text, and runs of it with a backend that computes next to nothing.
#pragma once

#include <csignal>
#include <sstream>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "base/interrupt.h"
#include "support/fake_backend.h"
#include "support/fake_encoders.h"
#include "test_files.h"
#include "train/run.h"

namespace retort::train {

inline constexpr const char* kTinyRecipe = R"(name: tiny
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
    auto parsed = parse_recipe(kTinyRecipe, "tiny.yaml", overrides);
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
  // A process of its own runs the recipe in `name` and is killed after `death` steps.
  void go_and_be_killed(const Recipe& recipe, const std::string& name, int64_t death) {
    go_and_be_killed(recipe, name, {-1, [death](int64_t n) { if (n == death) ::raise(SIGKILL); }});
  }
  void go_and_be_killed(const Recipe& recipe, const std::string& name, const fake::FakeBehaviour& behaviour, bool overwrite = false) {
    const pid_t child = fork();
    if (child == 0) {
      (void)go(recipe, name, false, behaviour, overwrite);
      _exit(0);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
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

}  // namespace retort::train
