// The whole program on a tiny teacher: `retort-train distill` in a child process, and what it wrote.
#pragma once

#include <csignal>
#include <functional>
#include <sys/wait.h>
#include <unistd.h>

#include <gtest/gtest.h>

#include "base/interrupt.h"
#include "io/model_files.h"
#include "support/tiny_model.h"
#include "test_files.h"
#include "train/train_main.h"

namespace retort::train {

inline constexpr const char* kMainRecipe = R"(name: tiny
seed: 5
save_init: true
checkpoint_minutes: 0
student: {mixer: slots, window: 8, sinks: 2, config: {slots: 16}}
data: {held_out: 0.1, calibration_tokens: 512}
defaults: {seq: 48, batch: 2, lr: 1e-3, repeat_every: 3}
stages:
- {name: align, loss: {attn_out: {form: relative}}, steps: 12, lr_features: 5e-3, schedule: {wsd: {warmup_steps: 2, decay: 0.5}}, ema: 0.9, clip: 1}
- {name: kd, loss: {logits: kl_here, ce: 0.1}, steps: 8, schedule: cosine, logit_fraction: 0.5, clip: 1, accumulate: 2}
)";

class TrainMainTest : public ::testing::Test {
 protected:
  void SetUp() override {
    clear_interrupt();
    ASSERT_TRUE(retort::test::write_tiny_model(folder_ / "teacher").ok());
    retort::test::write_file(folder_ / "corpus.jsonl", retort::test::tiny_corpus());
    std::string recipe = kMainRecipe;
    recipe.replace(recipe.find("kl_here"), 7, "{form: kl}");
    retort::test::write_file(folder_ / "tiny.yaml", recipe);
  }

  // A run's folder, and flags.
  std::vector<std::string> command(const std::string& out, const std::vector<std::string>& flags, const std::vector<std::string>& more) const {
    std::vector<std::string> all = {"--out", folder_ / out};
    all.insert(all.end(), flags.begin(), flags.end());
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  // In a child process: signals, limits and torch's threads stay out of the test program. `prepare` runs in the child.
  int run(std::vector<std::string> more, const std::function<void()>& prepare = {}) {
    const bool named = !more.empty() && more.front().find(".yaml") != std::string::npos;
    if (!named) more.insert(more.begin(), folder_ / "tiny.yaml");
    std::fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
      if (!std::freopen((folder_ / "out.txt").c_str(), "w", stdout) || !std::freopen((folder_ / "err.txt").c_str(), "w", stderr)) _exit(99);
      if (prepare) prepare();
      std::vector<std::string> words = {"retort-train", "distill"};
      words.insert(words.end(), more.begin(), more.end());
      const std::pair<std::string, std::string> defaults[] = {{"--teacher", folder_ / "teacher"}, {"--data", folder_ / "corpus.jsonl"}, {"--threads", "2"}};
      for (const auto& [flag, value] : defaults) {
        if (std::find(words.begin(), words.end(), flag) == words.end()) words.insert(words.end(), {flag, value});
      }
      std::vector<char*> argv;
      for (auto& word : words) argv.push_back(word.data());
      const int code = train_main(int(argv.size()), argv.data());
      std::fflush(nullptr);
      _exit(code);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 256 + WTERMSIG(status);
  }
  // Lets the run go on for a while, then sends `signal`; true when the run had not ended before.
  bool run_until(std::vector<std::string> more, int signal, int rows) {
    const std::string metrics = folder_ / "b/metrics.jsonl";
    const pid_t watcher = fork();
    if (watcher == 0) {
      const int code = run(std::move(more), [&] {
        const pid_t self = getpid();
        if (fork() != 0) return;
        for (int i = 0; i < 6000 && kill(self, 0) == 0; ++i, usleep(2000)) {
          const auto text = retort::test::read_file(metrics);
          if (std::count(text.begin(), text.end(), '\n') < rows) continue;
          kill(self, signal);
          break;
        }
        _exit(0);
      });
      _exit(code == 130 || code == 256 + signal ? 1 : 0);
    }
    int status = 0;
    waitpid(watcher, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 1;
  }
  // The same with SIGKILL, again from nothing until the signal came in time: what is resumed then really was cut off.
  void kill_run(const std::vector<std::string>& words, int rows) {
    for (int i = 0; i < 10; ++i) {
      std::filesystem::remove_all(folder_ / "b");
      if (run_until(words, SIGKILL, rows)) return;
    }
    ADD_FAILURE() << "no signal came in time";
  }
  std::string err() { return retort::test::read_file(folder_ / "err.txt"); }
  std::vector<double> losses_of(const std::string& name) {
    std::istringstream rows(retort::test::read_file(folder_ / (name + "/metrics.jsonl")));
    std::vector<double> losses;
    for (std::string line; std::getline(rows, line);) losses.push_back(nlohmann::json::parse(line)["loss"].get<double>());
    return losses;
  }
  std::vector<std::byte> tensor_of(const std::string& model, const std::string& name) {
    const auto files = open_model(folder_ / model);
    if (!files.ok() || !files->weights->has(name)) return ADD_FAILURE() << model << " has no " << name, std::vector<std::byte>();
    const auto view = files->weights->tensor(name);
    return {view->data, view->data + view->bytes()};
  }
  std::string weights(const std::string& name) { return retort::test::read_file(folder_ / (name + "/student/model.safetensors")); }

  retort::test::TempFolder folder_;
};

}  // namespace retort::train
