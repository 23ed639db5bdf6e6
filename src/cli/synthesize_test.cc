// retort synthesize on a tiny random model, through the program's own frame.
#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <sstream>
#include <sys/wait.h>
#include <unistd.h>

#include "io/corpus.h"
#include "run_cli.h"
#include "support/tiny_model.h"
#include "test_files.h"

namespace retort::cli {
namespace {

using Json = nlohmann::ordered_json;
constexpr int kPrompts = 11;

class SynthesizeCommand : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(test::write_tiny_model(model_).ok());
    test::write_file(model_ + "/tokenizer_config.json",
                     R"({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "~",
                         "chat_template": "{% for m in messages %}{% if m.role == 'refused' %}{{ raise_exception('no such role') }}{% endif %}{{ m.role }}: {{ m.content }};{% endfor %}"})");
    std::string lines;
    for (int k = 0; k < kPrompts; ++k) {
      const std::string text(size_t(5 + 11 * k), char('a' + k));
      if (k % 2) lines += Json{{"prompt", text}}.dump() + "\n";
      else lines += Json{{"messages", {{{"role", "system"}, {"content", kSystem}}, {{"role", "user"}, {"content", text}}, {{"role", "assistant"}, {"content", "old"}}}}}.dump() + "\n";
    }
    test::write_file(prompts_, lines);
  }
  std::vector<std::string> arguments(const std::string& out, const std::vector<std::string>& more) {
    std::vector<std::string> words{"synthesize", model_, "--out", out};
    for (const auto& [flag, value] : {std::pair{"--prompts", prompts_}, {"-n", std::string("24")}}) {
      if (std::find(more.begin(), more.end(), flag) == more.end()) words.insert(words.end(), {flag, value});
    }
    words.insert(words.end(), more.begin(), more.end());
    return words;
  }
  Outcome synthesize(const std::string& out, std::vector<std::string> more = {}) { return run(arguments(out, more)); }
  // What was written; "" and a failure when it was not.
  std::string made(const std::vector<std::string>& more) {
    const std::string out = folder_ / cat("made", count_++, ".jsonl");
    const auto outcome = synthesize(out, more);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_FALSE(std::filesystem::exists(out + ".partial"));
    return outcome.code == 0 ? test::read_file(out) : "";
  }
  static std::vector<std::string> lines(const std::string& text) {
    std::vector<std::string> out;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) out.push_back(line);
    return out;
  }

  const std::string kSystem = std::string(600, 's');  // longer than the chunks whose states are kept
  int count_ = 0;
  test::TempFolder folder_;
  const std::string model_ = folder_ / "model", prompts_ = folder_ / "prompts.jsonl", out_ = folder_ / "out.jsonl";
};

TEST_F(SynthesizeCommand, WritesConversationsInTheOrderOfThePrompts) {
  const auto outcome = synthesize(out_, {"--json", "-n", "64", "--parallel", "3"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto written = lines(test::read_file(out_));
  ASSERT_EQ(written.size(), size_t(kPrompts));
  int cut = 0;
  for (int k = 0; k < kPrompts; ++k) {
    const Json line = Json::parse(written[size_t(k)]);
    EXPECT_EQ(line["source"], k);
    const auto& messages = line["messages"];
    ASSERT_EQ(messages.size(), k % 2 ? 2u : 3u);
    EXPECT_EQ(messages[messages.size() - 2]["content"], std::string(size_t(5 + 11 * k), char('a' + k)));
    EXPECT_EQ(messages.back()["role"], "assistant");
    EXPECT_NE(messages.back()["content"], "old");
    EXPECT_TRUE(line["finish"] == "stop" || line["finish"] == "length");
    cut += line["finish"] == "length";
  }
  const auto summary = outcome.json();
  EXPECT_EQ(summary["prompts"], kPrompts);
  EXPECT_EQ(summary["cut_at_length"], cut);
  EXPECT_GE(summary["made_tokens"], 64 * cut);
  EXPECT_LE(summary["made_tokens"], 64 * kPrompts);
  EXPECT_GT(summary["tokens_per_second"], 0);
  EXPECT_GT(summary["cached_tokens"], 512) << "the system's message is read once";
  // Ready for a trainer: chat data as io/corpus.h reads it.
  const auto corpus = read_corpus({out_});
  ASSERT_TRUE(corpus.ok()) << corpus.error().message;
  EXPECT_EQ((*corpus)[0].messages.size(), 3u);
}

TEST_F(SynthesizeCommand, AnAnswerDependsOnModelPromptPlaceAndSeed) {
  const std::string whole = made({});
  EXPECT_EQ(made({"--parallel", "1"}), whole);
  EXPECT_EQ(made({"--parallel", "4", "--cache-ram", "0", "--threads", "1"}), whole);
  EXPECT_EQ(made({"--temperature", "1", "--top-p", "1", "--top-k", "0"}), whole) << "the defaults";
  EXPECT_NE(made({"--seed", "5"}), whole);
  EXPECT_NE(made({"--temp", "0.5"}), whole);
  EXPECT_EQ(made({"--top-k", "1", "--seed", "5"}), made({"--temp", "0"})) << "the likeliest token, whatever the seed";
}

TEST_F(SynthesizeCommand, ShardsAreTheWhole) {
  const auto whole = lines(made({}));
  std::vector<std::string> all(whole.size());
  for (int i = 0; i < 3; ++i) {
    const auto part = lines(made({"--shard", cat(i, "/3"), "--parallel", cat(i + 1)}));
    for (size_t j = 0; j < part.size(); ++j) {
      ASSERT_LT(size_t(i) + 3 * j, all.size());
      all[size_t(i) + 3 * j] = part[j];
    }
  }
  EXPECT_EQ(all, whole);
  EXPECT_EQ(made({"--shard", "20/21"}), "") << "more jobs than prompts";
}

TEST_F(SynthesizeCommand, KilledItGoesOn) {
  const std::vector<std::string> more{"--parallel", "2", "-n", "200"};
  const std::string whole = made(more), partial = out_ + ".partial";
  const auto answers = [&] { return std::filesystem::exists(partial) ? std::max<size_t>(lines(test::read_file(partial)).size(), 1) - 1 : 0; };
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    (void)synthesize(out_, more);
    _exit(0);
  }
  for (int i = 0; i < 20000 && answers() < 3 && waitpid(child, nullptr, WNOHANG) == 0; ++i) usleep(1000);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  ASSERT_FALSE(std::filesystem::exists(out_)) << "it was killed too late";
  const auto kept = answers();
  ASSERT_GE(kept, 3u);
  auto other = more;
  other.insert(other.end(), {"--seed", "9"});
  EXPECT_EQ(synthesize(out_, other).code, 2) << "not with other settings";
  auto json = more;
  json.push_back("--json");
  const auto outcome = synthesize(out_, json);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_GE(outcome.json()["resumed"], int(kept) - 1);
  EXPECT_LT(outcome.json()["resumed"], kPrompts);
  EXPECT_EQ(test::read_file(out_), whole);
  EXPECT_FALSE(std::filesystem::exists(partial));
}

TEST_F(SynthesizeCommand, BadInputIsOneLineAndExitCodeTwo) {
  test::write_file(folder_ / "bad.jsonl", "{\"prompt\": \"a\"}\n{\"text\": \"b\"}\n");
  test::write_file(folder_ / "role.jsonl", "{\"prompt\": \"a\"}\n{\"messages\": [{\"role\": \"refused\", \"content\": \"b\"}]}\n");
  const std::string plain = folder_ / "plain";
  ASSERT_TRUE(test::write_tiny_model(plain).ok());
  const std::pair<std::vector<std::string>, const char*> wrong[] = {
      {{"--prompts", folder_ / "absent.jsonl"}, "absent.jsonl"},
      {{"--prompts", folder_ / "bad.jsonl"}, "bad.jsonl:2"},
      {{"--prompts", folder_ / "role.jsonl"}, "role.jsonl:2"},
      {{"--prompts", ""}, "--prompts"},
      {{"--shard", "3/3"}, "--shard"},
      {{"--temperature", "-1"}, "--temp"},
      {{"--top-p", "2"}, "--top-p"},
      {{"-n", "0"}, "-n"},
      {{"--parallel", "0"}, "--parallel"},
      {{"-m", plain}, "chat template"},
      {{"--out", "/proc/nowhere/x.jsonl"}, "/proc/nowhere"},
      {{"--out", ""}, "--out"}};
  for (const auto& [flags, what] : wrong) {
    std::vector<std::string> words{"synthesize"};
    for (const auto& [flag, value] : {std::pair{"-m", model_}, {"--out", out_}, {"--prompts", prompts_}}) {
      if (std::find(flags.begin(), flags.end(), flag) == flags.end()) words.insert(words.end(), {flag, value});
    }
    words.insert(words.end(), flags.begin(), flags.end());
    const auto outcome = run(words);
    EXPECT_EQ(outcome.code, 2) << what << outcome.err;
    EXPECT_EQ(outcome.out, "") << what;
    EXPECT_EQ(outcome.err.rfind("retort: error: ", 0), 0u) << outcome.err;
    EXPECT_NE(outcome.err.find(what), std::string::npos) << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_FALSE(std::filesystem::exists(out_) || std::filesystem::exists(out_ + ".partial")) << what;
  }
}

}  // namespace
}  // namespace retort::cli
